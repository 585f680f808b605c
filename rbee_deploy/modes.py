"""How a host runs rbee, and the units that each role owns there."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime import ports


class Mode(StrEnum):
    """How queen and hive run on a host."""

    BARE = "bare"
    CONTAINER = "container"


class WorkerRuntime(StrEnum):
    """How workers run on a host."""

    PROCESS = "process"
    CONTAINER = "container"


class ContainerEngine(StrEnum):
    """What runs containers on a host."""

    PODMAN = "podman"
    DOCKER = "docker"
    ROOTLESS = "podman-rootless"
    """Podman of a user without rights. An inventory says it in two words, and so do settings of hive and guard."""

    @property
    def program(self) -> str:
        """Return the name of its command."""
        return "podman" if self is ContainerEngine.ROOTLESS else self.value


@dataclass(frozen=True)
class Way:
    """How a host runs rbee: queen and hive, and the engine of what runs in containers there (None: nothing does)."""

    mode: Mode = Mode.BARE
    engine: ContainerEngine | None = None

    @property
    def housed(self) -> ContainerEngine | None:
        """Return the engine that queen and hive run in, None where they are processes of the host."""
        return self.engine if self.mode is Mode.CONTAINER else None


BARE = Way()
WAYS = (BARE, *(Way(mode, engine) for mode in Mode for engine in ContainerEngine))
"""Every way that there is."""


@dataclass(frozen=True)
class RoleUnits:
    """Units of one role.

    `service` is restarted when its digest changes, `enabled` are up from boot on in this order, `helpers` are those of
    them that are up before the service. `files` are what systemd, or Quadlet, reads them from, by name.
    """

    service: str
    enabled: tuple[str, ...]
    files: tuple[str, ...]
    helpers: tuple[str, ...] = ()


UNITS_DIR = "/etc/systemd/system"
QUADLET_DIR = "/etc/containers/systemd"
QUADLET = ".container"
POLKIT_RULES = "/etc/polkit-1/rules.d/50-rbee-hive.rules"

_GUARD = (ports.GUARD_SOCKET_UNIT, ports.GUARD_UNIT, ports.WORKERS_UNIT)
_HELPERS: Mapping[ContainerEngine | None, tuple[str, ...]] = {
    None: (),
    ContainerEngine.PODMAN: (ports.NETWORK_UNIT, ports.PODMAN_UNIT, *_GUARD),
    ContainerEngine.DOCKER: (ports.NETWORK_UNIT, *_GUARD),
    ContainerEngine.ROOTLESS: (ports.PODMAN_UNIT, ports.NETWORK_UNIT, *_GUARD),
}
ATTENDED = (ContainerEngine.DOCKER, ContainerEngine.ROOTLESS)
"""Engines that systemd's own units start containers of, by a main process of ours; Podman has Quadlet."""

_QUADLETS = {
    # Quadlet itself refuses any KillMode but two, and both would end the streams of a queen that is being replaced.
    ports.QUEEN_UNIT: (ports.QUEEN_QUADLET, ports.QUEEN_DROP_IN),
    ports.HIVE_UNIT: (ports.HIVE_QUADLET,),
}


def role_units(role: str, way: Way = BARE) -> RoleUnits:
    """Return the units of `queen` or `hive` on a host that runs rbee in some way."""
    queen = role == "queen"
    service, helpers = (ports.QUEEN_UNIT, _queen_helpers(way)) if queen else (ports.HIVE_UNIT, _HELPERS[way.engine])
    sockets = (ports.QUEEN_SOCKET_UNIT,) if queen else ()
    before = (ports.TARGET_UNIT, *sockets, *helpers)
    own = _QUADLETS[service] if way.housed is ContainerEngine.PODMAN else (service,)
    templates = (ports.WORKER_TEMPLATE,) if role == "hive" and way.engine is None else ()
    return RoleUnits(service, (*before, service), (*before, *own, *templates), helpers)


def _queen_helpers(way: Way) -> tuple[str, ...]:
    """Return what a queen counts on: an engine that is no service of the host's own."""
    return (ports.PODMAN_UNIT,) if way.housed is ContainerEngine.ROOTLESS else ()


def enabled_units(roles: tuple[str, ...], way: Way, *, firewall: bool) -> tuple[str, ...]:
    """Return the units that start at boot on a host."""
    own = (ports.FIREWALL_UNIT,) if firewall else ()
    return tuple(dict.fromkeys((*own, *(unit for role in roles for unit in role_units(role, way).enabled))))


def helper_units(roles: tuple[str, ...], way: Way) -> tuple[str, ...]:
    """Return the units that have to be up before the services of a host are."""
    return tuple(unit for role in roles for unit in role_units(role, way).helpers)


def units_elsewhere(roles: tuple[str, ...], way: Way) -> tuple[str, ...]:
    """Return the units that start at boot on hosts that are otherwise, and not on one with these roles."""
    here = {unit for role in roles for unit in role_units(role, way).enabled}
    return tuple(unit for unit in every_unit() if unit not in here)


def way_out(way: Way) -> str:
    """Return what to write in a host's line for nothing to run in a container there."""
    return "mode='bare'" if way.mode is Mode.CONTAINER else "worker_runtime='process'"


def every_unit() -> tuple[str, ...]:
    """Return the units that start at boot on some host, whatever it is."""
    return tuple(dict.fromkeys(unit for units in _every() for unit in units.enabled))


def other_files(role: str) -> tuple[str, ...]:
    """Return the paths from which systemd could read the service of a role, in whatever way it runs."""
    service = role_units(role).service
    return tuple(map(unit_path, (service, *_QUADLETS[service])))


def every_file() -> tuple[str, ...]:
    """Return the paths of the unit files that there may be on some host, whatever it is."""
    return tuple(dict.fromkeys(unit_path(name) for units in _every() for name in units.files))


def _every() -> tuple[RoleUnits, ...]:
    return tuple(role_units(role, way) for role in ("queen", "hive") for way in WAYS)


def unit_path(name: str) -> str:
    """Return where a unit file lies."""
    return f"{QUADLET_DIR if is_quadlet(name) else UNITS_DIR}/{name}"


def quadlet_path(unit: str) -> str:
    """Return where the file lies that Quadlet makes a service of."""
    return unit_path(f"{unit.rpartition('.')[0]}{QUADLET}")


def is_quadlet(name: str) -> bool:
    """Say whether a file is Quadlet's, who makes a unit of it."""
    return name.endswith(QUADLET)


def credentials_directory(unit: str) -> str:
    """Return where systemd, or a container, shows a running unit its credentials ($CREDENTIALS_DIRECTORY)."""
    return f"/run/credentials/{unit}"
