"""How a host runs rbee, and the units that each role owns there."""

from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime import ports


class Mode(StrEnum):
    """How queen and hive run on a host."""

    BARE = "bare"


@dataclass(frozen=True)
class RoleUnits:
    """Units of one role.

    `service` is restarted when its digest changes, `enabled` are up from boot on in this order, `templates` have no
    life of their own.
    """

    service: str
    enabled: tuple[str, ...]
    templates: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Return every unit file of the role."""
        return (*self.enabled, *self.templates)


UNITS_DIR = "/etc/systemd/system"
POLKIT_RULES = "/etc/polkit-1/rules.d/50-rbee-hive.rules"

_ROLES = {
    "queen": RoleUnits(
        service=ports.QUEEN_UNIT, enabled=(ports.TARGET_UNIT, ports.QUEEN_SOCKET_UNIT, ports.QUEEN_UNIT)
    ),
    "hive": RoleUnits(
        service=ports.HIVE_UNIT,
        enabled=(ports.TARGET_UNIT, ports.HIVE_UNIT),
        templates=(ports.WORKER_TEMPLATE,),
    ),
}


def role_units(role: str) -> RoleUnits:
    """Return the units of `queen` or `hive`."""
    return _ROLES[role]


def enabled_units(roles: tuple[str, ...], *, firewall: bool) -> tuple[str, ...]:
    """Return the units that start at boot on a host."""
    own = (ports.FIREWALL_UNIT,) if firewall else ()
    return tuple(dict.fromkeys((*own, *(unit for role in roles for unit in _ROLES[role].enabled))))


def units_elsewhere(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Return the units that start at boot on hosts with other roles than these, and not with these."""
    here = {unit for role in roles for unit in _ROLES[role].enabled}
    return tuple(unit for role in _ROLES.values() for unit in role.enabled if unit not in here)


def unit_path(unit: str) -> str:
    """Return where a unit file lies."""
    return f"{UNITS_DIR}/{unit}"


def credentials_directory(unit: str) -> str:
    """Return where systemd shows a running unit its credentials ($CREDENTIALS_DIRECTORY)."""
    return f"/run/credentials/{unit}"
