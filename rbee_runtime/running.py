"""What really runs, for `/health` and the deployer: the digest that a process started with, and `running.json`."""

import contextlib
import os
import sys
import time
from pathlib import Path

import msgspec

from rbee_runtime import __version__, durable, logs, ports
from rbee_runtime.errors import StateError

FIRST = 1
"""The first process of a container: when it goes, the kernel kills what it leaves behind."""


def is_first() -> bool:
    """Say whether this process is the first of its container, which nothing that it starts outlives."""
    return os.getpid() == FIRST


def digest_of(config: Path) -> str:
    """Return the one line of `<role>.digest` next to `<role>.yaml`, "" where no deployer wrote one."""
    try:
        return config.with_suffix(".digest").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def release() -> str:
    """Return the id of the installed release that runs, "" where code runs that no deployer installed."""
    prefix = Path(sys.prefix).resolve()
    return prefix.name if prefix.parent.name == ports.RELEASES.name else ""


def write(run_dir: Path, *, digest: str, pid: int) -> None:
    """Say what runs, readable by anybody; a run directory that cannot be written costs that file only."""
    facts = {
        "digest": digest,
        "release": Path(sys.prefix).resolve().name,
        "pid": pid,
        "version": __version__,
        "started_unix": int(time.time()),
    }
    try:
        durable.write(run_dir / ports.RUNNING_FILE, msgspec.json.encode(facts), mode=0o644)
    except StateError as error:
        logs.warning("running file not written", why=error)


def withdraw(run_dir: Path) -> None:
    """Say that it runs no more: of a container that lives on for its open streams, nobody else would."""
    with contextlib.suppress(OSError):
        (run_dir / ports.RUNNING_FILE).unlink()
