"""What a lab writes down about itself: enough to find it again, to read its hosts and to take it apart."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tests.lab.processes import start_time
from tests.lab.recipes import SSH_USER

FILE = "lab.json"


@dataclass(frozen=True)
class Bind:
    """A folder or file of this machine that a host sees."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Owner:
    """The process that made a lab; a pid alone could be somebody else's by now."""

    pid: int
    started: int
    boot: str

    @classmethod
    def this_process(cls) -> Self:
        """Return the owner that this process is."""
        return cls(os.getpid(), start_time(os.getpid()) or 0, _boot_id())

    @property
    def is_alive(self) -> bool:
        """Say whether that very process still runs."""
        return self.boot == _boot_id() and start_time(self.pid) == self.started


@dataclass(frozen=True, kw_only=True)
class HostRecord:
    """One host of a lab."""

    name: str
    machine: str
    address: str
    image: str
    online: bool = False
    nested: bool = False
    partitioned: bool = False
    binds: tuple[Bind, ...] = ()

    @property
    def link(self) -> str:
        """Return this machine's end of the host's network cable, named by systemd-nspawn."""
        return f"vb-{self.machine}"


@dataclass(frozen=True, kw_only=True)
class LabRecord:
    """One lab; its name is the name of its bridge and of its firewall table too."""

    name: str
    label: str
    subnet: str
    gateway: str
    owner: Owner
    persistent: bool = False
    hosts: tuple[HostRecord, ...] = ()

    @property
    def is_stale(self) -> bool:
        """Say whether the run that made it is over and it was not meant to stay."""
        return not self.persistent and not self.owner.is_alive

    def save(self, directory: Path) -> None:
        """Write the record at once or not at all, with the paths that an inventory needs."""
        paths = {
            "directory": str(directory),
            "ssh_key": str(directory / "id_ed25519"),
            "known_hosts": str(directory / "known_hosts"),
            "ssh_user": SSH_USER,
        }
        partial = directory / f"{FILE}.partial"
        partial.write_text(json.dumps({**paths, **asdict(self)}, indent=2) + "\n")
        partial.rename(directory / FILE)


def load(directory: Path) -> LabRecord | None:
    """Read a lab's record; None if the folder holds none that is whole."""
    try:
        raw = json.loads((directory / FILE).read_text())
        return LabRecord(
            name=raw["name"],
            label=raw["label"],
            subnet=raw["subnet"],
            gateway=raw["gateway"],
            owner=Owner(**raw["owner"]),
            persistent=raw["persistent"],
            hosts=tuple(_host(host) for host in raw["hosts"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host(raw: dict[str, object]) -> HostRecord:
    binds = raw.pop("binds")
    if not isinstance(binds, list):
        raise TypeError
    return HostRecord(**raw, binds=tuple(Bind(**bind) for bind in binds))  # type: ignore[arg-type]  # checked by the constructor's own names


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
