"""How a host runs rbee, and the units that each role owns there."""

from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime import ports


class Mode(StrEnum):
    """How queen and hive run on a host."""

    BARE = "bare"


class WorkerRuntime(StrEnum):
    """How workers run on a host."""

    PROCESS = "process"
    CONTAINER = "container"


class ContainerEngine(StrEnum):
    """What runs containers on a host."""

    PODMAN = "podman"
    DOCKER = "docker"


@dataclass(frozen=True)
class RoleUnits:
    """Units of one role.

    `service` is restarted when its digest changes, `enabled` are up from boot on in this order, `helpers` are those of
    them that are up before the service, `templates` have no life of their own.
    """

    service: str
    enabled: tuple[str, ...]
    templates: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Return every unit file of the role."""
        return (*self.enabled, *self.templates)


UNITS_DIR = "/etc/systemd/system"
POLKIT_RULES = "/etc/polkit-1/rules.d/50-rbee-hive.rules"

_QUEEN = RoleUnits(service=ports.QUEEN_UNIT, enabled=(ports.TARGET_UNIT, ports.QUEEN_SOCKET_UNIT, ports.QUEEN_UNIT))
_GUARD = (ports.GUARD_SOCKET_UNIT, ports.GUARD_UNIT, ports.WORKERS_UNIT)


def _hive(*helpers: str, templates: tuple[str, ...] = ()) -> RoleUnits:
    enabled = (ports.TARGET_UNIT, *helpers, ports.HIVE_UNIT)
    return RoleUnits(ports.HIVE_UNIT, enabled, templates=templates, helpers=helpers)


_HIVES = {
    None: _hive(templates=(ports.WORKER_TEMPLATE,)),
    ContainerEngine.PODMAN: _hive(ports.PODMAN_UNIT, *_GUARD),
    ContainerEngine.DOCKER: _hive(*_GUARD),
}
EVERY = (_QUEEN, *_HIVES.values())
"""Of all roles, however they run."""


def role_units(role: str, engine: ContainerEngine | None = None) -> RoleUnits:
    """Return the units of `queen` or `hive`; `engine` is that of the host's workers, None where they are processes."""
    return _QUEEN if role == "queen" else _HIVES[engine]


def enabled_units(roles: tuple[str, ...], engine: ContainerEngine | None, *, firewall: bool) -> tuple[str, ...]:
    """Return the units that start at boot on a host."""
    own = (ports.FIREWALL_UNIT,) if firewall else ()
    return tuple(dict.fromkeys((*own, *(unit for role in roles for unit in role_units(role, engine).enabled))))


def helper_units(roles: tuple[str, ...], engine: ContainerEngine | None) -> tuple[str, ...]:
    """Return the units that have to be up before the services of a host are."""
    return tuple(unit for role in roles for unit in role_units(role, engine).helpers)


def units_elsewhere(roles: tuple[str, ...], engine: ContainerEngine | None) -> tuple[str, ...]:
    """Return the units that start at boot on hosts that are otherwise, and not on one with these roles."""
    here = {unit for role in roles for unit in role_units(role, engine).enabled}
    return tuple(dict.fromkeys(unit for units in EVERY for unit in units.enabled if unit not in here))


def unit_path(unit: str) -> str:
    """Return where a unit file lies."""
    return f"{UNITS_DIR}/{unit}"


def credentials_directory(unit: str) -> str:
    """Return where systemd shows a running unit its credentials ($CREDENTIALS_DIRECTORY)."""
    return f"/run/credentials/{unit}"
