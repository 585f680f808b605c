"""Hosts as far as a queen can tell: each a real hive program of an installed release, with real worker processes."""

import asyncio
import json
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rbee_runtime.hive.launchers.process import ProcessLauncher
from tests.ports import free_port, free_ports
from tests.unit.hive.waiting import until
from tests.unit.queen.units import PATIENCE, ROOT, Unit

BROKEN = """
import os
import sys

if "rbee_runtime.worker.main" in sys.orig_argv:
    os._exit(70)
"""
"""The first code of a release whose workers never start."""


def release(folder: Path, name: str, *, first: str = "") -> Path:
    """Install this code as a release and return its Python; each process of it runs the code `first` first."""
    root = folder / "releases" / name
    packages = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (root / "bin").mkdir()
    home = Path(sys.base_prefix) / "bin"
    (root / "pyvenv.cfg").write_text(f"home = {home}\n")
    python = root / "bin" / "python"
    python.symlink_to(home / f"python{sys.version_info.major}.{sys.version_info.minor}")
    (packages / "rbee.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\nimport rbee_first\n")
    (packages / "rbee_first.py").write_text(first)
    return python


@dataclass
class Host:
    """One host of a unit's fleet; its hive may stop and start, its workers go on."""

    unit: Unit
    name: str
    hive: subprocess.Popen[bytes] | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.unit.directory / self.name
        (self.folder / "state").mkdir(parents=True)
        token = (self.unit.directory / "state" / "link-token").read_text()
        (self.folder / "state" / "link-token").write_text(token)
        settings = {
            "fleet": "test",
            "name": self.name,
            "port": free_port(),
            "queen_url": f"http://127.0.0.1:{self.unit.link_port}",
            "launcher": "process",
            "worker_ports": list(free_ports(4)),
            "heartbeat_seconds": 1.0,
            **{f"{kind}_dir": str(self.folder / kind) for kind in ("state", "run", "models", "engines")},
        }
        (self.folder / "hive.yaml").write_text(yaml.safe_dump(settings))

    def start(self, python: Path) -> None:
        """Start the hive of a release."""
        command = [str(python), "-m", "rbee_runtime.hive.main", "--config", str(self.folder / "hive.yaml")]
        with (self.folder / "log").open("ab") as log:
            self.hive = subprocess.Popen(command, stderr=log, cwd=ROOT)

    def stop(self) -> None:
        """Stop the hive as its unit does."""
        if self.hive is not None:
            self.hive.send_signal(signal.SIGTERM)
            self.hive.wait(PATIENCE)
            self.hive = None

    def upgrade(self, python: Path) -> None:
        """Restart the hive with another release, which is all that an upgrade does to a host."""
        self.stop()
        self.start(python)

    def pids(self) -> dict[str, int]:
        """Return the process of each worker."""
        handles = (self.folder / "state" / "process").glob("*.handle.json")
        return {path.name.removesuffix(".handle.json"): json.loads(path.read_bytes())["pid"] for path in handles}

    def releases(self) -> list[str]:
        """Return the release that each worker really runs."""
        commands = [Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0] for pid in self.pids().values()]
        return [Path(command).parent.parent.name for command in commands]

    def close(self) -> None:
        """End the hive and its workers."""
        self.stop()
        asyncio.run(_end_workers(ProcessLauncher(self.folder / "state")))


async def _end_workers(launcher: ProcessLauncher) -> None:
    for worker, status in (await launcher.list()).items():
        if status.alive:
            await launcher.stop(worker)

    async def ended() -> bool:
        return not any(status.alive for status in (await launcher.list()).values())

    await until(ended)


@contextmanager
def hosts(unit: Unit, *names: str) -> Iterator[list[Host]]:
    """Give hosts that are gone afterwards with everything that runs there."""
    made = [Host(unit, name) for name in names]
    try:
        yield made
    finally:
        for host in made:
            host.close()
