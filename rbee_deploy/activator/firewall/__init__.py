"""The host's firewall: our ports are open to those who need them and closed to others; no other port is touched.

What is wanted lies in /etc/rbee/firewall.json. Putting it in force may be repeated, and one that failed half-way has
left at most more allowed than is wanted: nftables takes its table as a whole, and the others get what is allowed first.
"""

import shutil
from types import ModuleType

from rbee_deploy.activator import places, units
from rbee_deploy.activator.firewall import firewalld, nftables, ufw
from rbee_deploy.activator.firewall.commands import FirewallError
from rbee_deploy.activator.firewall.record import Record
from rbee_deploy.activator.firewall.rules import Kind, Rules
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

__all__ = ["FirewallError", "apply", "differences", "drop_others", "is_held", "remove", "start", "stop"]

_KINDS: dict[Kind, ModuleType] = {Kind.NFTABLES: nftables, Kind.UFW: ufw, Kind.FIREWALLD: firewalld}
_PROGRAMS = {Kind.NFTABLES: "nft", Kind.UFW: "ufw", Kind.FIREWALLD: "firewall-cmd"}


def apply() -> None:
    """Put the rules of the file in force; what another kind of firewall holds of ours stays until `drop_others`.

    The unit does this, and has the rights that its own kind needs and no more.
    """
    text = places.FIREWALL.read_text(encoding="utf-8")
    wanted, record = Rules.parse(text), Record.load()
    kind, mine = _KINDS[wanted.kind], record.of(wanted.kind)
    record = record.holding(wanted.kind, list(dict.fromkeys((*mine, *kind.planned(wanted)))))
    record.save()
    record.holding(wanted.kind, kind.apply(wanted, mine), rules=text).save()


def drop_others() -> None:
    """Take away what is ours in other kinds of firewall than the file's."""
    kind, record = Rules.parse(places.FIREWALL.read_text(encoding="utf-8")).kind, Record.load()
    for other in [known for known in record.held if known != kind]:
        _remove(Kind(other), record)
        record = record.without(other)
        record.save()


def differences() -> list[str]:
    """Return what is not in force as the file says, one phrase each; raise ValueError or OSError for a bad file."""
    text = places.FIREWALL.read_text(encoding="utf-8")
    wanted, record = Rules.parse(text), Record.load()
    try:
        found: list[str] = _KINDS[wanted.kind].differences(wanted, record.of(wanted.kind))
    except FirewallError as error:
        return [str(error)]
    if not found and record.rules != text:
        return [f"the rules of {places.FIREWALL} are not in force"]
    return found


def is_held() -> bool:
    """Say whether anything of ours may be in force."""
    return bool(Record.load().held)


def remove() -> None:
    """Take away all that is ours, and forget it."""
    record = Record.load()
    for kind in list(record.held):
        _remove(Kind(kind), record)
        record = record.without(kind)
        record.save()


def _remove(kind: Kind, record: Record) -> None:
    # A tool that was uninstalled took its rules along, or left them to whoever did that.
    if shutil.which(_PROGRAMS[kind]) is not None:
        _KINDS[kind].remove(record.of(kind))


def start(*, stale: bool) -> None:
    """Have the unit put the rules in force, which it does at boot as well, unless they are; raise ActivationError."""
    active = units.look([ports.FIREWALL_UNIT])[ports.FIREWALL_UNIT].active == "active"
    if not active or stale or differences():
        try:
            units.systemctl("restart", "--", ports.FIREWALL_UNIT)
        except ActivationError as error:
            lines = units.journal(ports.FIREWALL_UNIT)
            raise ActivationError("\n".join((f"{ports.FIREWALL_UNIT} failed; its last lines:", *lines))) from error
    drop_others()


def stop() -> None:
    """Switch the unit off and take away all that is ours."""
    known = units.look([ports.FIREWALL_UNIT])[ports.FIREWALL_UNIT]
    if known.active not in {"", "inactive"} or known.file_state == "enabled":
        units.systemctl("disable", "--now", "--quiet", "--", ports.FIREWALL_UNIT)
    remove()
