"""What is known of a host, in types: paths, units, what runs; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rbee_runtime import ports


@dataclass(frozen=True)
class PathState:
    """One path: `kind` is file, directory, link or what stat calls it."""

    kind: str = ""
    mode: str = ""
    owner: str = ""
    group: str = ""
    size: int = 0
    sha256: str = ""
    target: str = ""


@dataclass(frozen=True)
class UnitState:
    """One unit, as `systemctl show` has it."""

    load: str = ""
    active: str = ""
    sub: str = ""
    result: str = ""
    file_state: str = ""
    need_reload: bool = False
    main_pid: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class Observed:
    """A host's state for the operations; `raw` is the fact as it came."""

    raw: Mapping[str, Any]
    paths: Mapping[str, PathState] = field(default_factory=dict)
    units: Mapping[str, UnitState] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Observed":
        """Return the fact in types."""
        return cls(
            raw=raw,
            paths={path: PathState(**known) for path, known in raw.get("paths", {}).items()},
            units={name: UnitState(**known) for name, known in raw.get("units", {}).items()},
        )

    def unit(self, name: str) -> UnitState:
        """Return a unit; one that is not known is all empty."""
        return self.units.get(name, UnitState())

    def running(self, role: str) -> tuple[str, str]:
        """Return digest and release that a role runs with, each "" if it does not run."""
        known = self.raw.get("running", {}).get(role, {})
        return str(known.get("digest", "")), str(known.get("release", ""))

    @property
    def workers(self) -> list[str]:
        """Return the units and containers of workers that have not ended."""
        prefix, ended = ports.WORKER_TEMPLATE.removesuffix(".service"), {"", "inactive", "failed"}
        units = [name for name, unit in self.units.items() if name.startswith(prefix) and unit.active not in ended]
        return [*units, *self.raw.get("containers", ())]

    @property
    def ports(self) -> frozenset[int]:
        """Return the TCP ports that something listens on."""
        return frozenset(int(port) for port in self.raw.get("listeners", {}))

    @property
    def deploy(self) -> Mapping[str, Any]:
        """Return what the activator noted: `current`, `wanted` (of an activation that did not end), `good`."""
        known: Mapping[str, Any] = self.raw.get("deploy", {})
        return known

    def names(self, section: str) -> frozenset[str]:
        """Return the names in a section that lists things: users, groups, releases, engines, tools, blobs, drop-ins."""
        return frozenset(self.raw.get(section, ()))

    def incoming(self, name: str) -> int:
        """Return how many bytes of an upload are there."""
        return int(self.raw.get("incoming", {}).get(name, 0))
