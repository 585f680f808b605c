"""The unit of the rules about workers, whose lines are run here: its mark is there only while the rules are."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_deploy.render import owned_files
from rbee_runtime import ports
from rbee_runtime.worker_bridge import TABLES
from tests.unit.deploy.sites import contained, state_of

NFT = """#!/bin/sh
echo "mark=$(ls {mark} 2>/dev/null | wc -l) $*" >>{asked}
[ ! -e {broken} ] || ! grep -qxF -e "$*" {broken} || {{ echo "Error: $*" >&2; exit 1; }}
"""
LOADED = f"-f {ports.NETWORK_RULES}"
LISTED = [f"list table {table}" for table in TABLES]


@dataclass(frozen=True)
class Host:
    """A folder in the place of the unit's own, and an nft that notes what it is told and whether the mark is there."""

    root: Path

    @property
    def mark(self) -> Path:
        return self.root / "run" / ports.NETWORK_MARK.name

    def run(self, key: str) -> bool:
        """Run the unit's lines of this kind as systemd does: the next one after one that went well, or need not."""
        for line in unit_lines(key):
            words = shlex.split(line.lstrip("-+").replace(str(ports.NETWORK_RUN), str(self.mark.parent)))
            path = f"{self.root}:{os.environ['PATH']}"
            done = subprocess.run(words, check=False, env={"PATH": path}, capture_output=True)
            if done.returncode != 0 and not line.startswith("-"):
                return False
        return True

    def break_down(self, words: str = "") -> None:
        """Have nft fail when it is told this, and no longer what it failed at before."""
        (self.root / "broken").write_text(f"{words}\n" if words else "-\n")

    def asked(self) -> list[str]:
        return (self.root / "asked").read_text().splitlines()


def unit_lines(key: str) -> list[str]:
    site = contained()
    (item,) = (each for each in site.hosts if each.name == "box1")
    (unit,) = (each for each in owned_files(site, item, state_of(site)) if each.path.endswith(ports.NETWORK_UNIT))
    return [line.partition("=")[2] for line in unit.text().splitlines() if line.startswith(f"{key}=")]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.mark.parent.mkdir()
    text = NFT.format(mark=made.mark, asked=tmp_path / "asked", broken=tmp_path / "broken")
    # No rule of this machine's is asked about, and a Docker beside has no say in whether workers start.
    for name, program in {"nft": text, "iptables": "#!/bin/sh\nexit 4\n", "dockerd": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    return made


@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_the_mark_comes_after_the_rules(host: Host, key: str) -> None:
    """It is away while they are loaded and looked at, also where it was there before, and there in the end."""
    host.mark.touch()
    assert host.run(key)
    assert host.asked() == [f"mark=0 {words}" for words in (LOADED, *LISTED)]
    assert host.mark.exists()


@pytest.mark.parametrize("broken", [LOADED, *LISTED])
@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_what_fails_leaves_the_mark_away(host: Host, key: str, broken: str) -> None:
    """Rules that nft does not take, and a file without our tables, let no worker start until a reload goes well."""
    host.mark.touch()
    host.break_down(broken)
    assert not host.run(key)
    assert not host.mark.exists()
    host.break_down()
    assert host.run("ExecReload")
    assert host.mark.exists()


@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_iptables_runs_outside_of_what_closes_the_unit(key: str) -> None:
    """Its older kind wants a lock file and sockets that are denied there; nothing else runs with all rights."""
    outside = [line for line in unit_lines(key) if "+" in line[:2]]
    assert outside == [line for line in unit_lines(key) if "iptables" in line]
    assert len(outside) == 1


def test_a_stop_takes_the_mark_away() -> None:
    """It lies in a folder that systemd removes with the unit, and the guard looks at that path."""
    assert unit_lines("RuntimeDirectory") == [ports.NETWORK_MARK.parent.name]
    assert ports.NETWORK_MARK.parent.parent == Path("/run")
    assert unit_lines("RuntimeDirectoryPreserve") == []
