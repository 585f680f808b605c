"""Make systemd know and enable the units; a daemon-reload only if needed, it can cost containers their GPUs."""

import shlex
from collections.abc import Callable, Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from rbee_deploy.facts.memo import observe
from rbee_deploy.observed import Observed
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import as_root_command


def unknown_to_systemd(facts: Observed) -> bool:
    """Say whether systemd itself sees that a unit file changed under it; asked about every unit of ours."""
    return any(unit.need_reload for unit in facts.units.values())


@operation()
def registered(enabled: list[str] | Callable[[], list[str]]) -> Iterator[StringCommand]:
    """Reload systemd if it holds an outdated unit of ours, and enable the units that start at boot."""
    facts = observe(host)
    wanted = now(enabled)
    missing = any(facts.unit(name).load != "loaded" for name in wanted)
    if missing or unknown_to_systemd(facts):
        yield as_root_command("systemctl daemon-reload")
    off = [name for name in wanted if facts.unit(name).file_state != "enabled"]
    if off:
        yield as_root_command(f"systemctl enable --quiet -- {shlex.join(off)}")
    if not off and not missing and not unknown_to_systemd(facts):
        host.noop("every unit is known and enabled")


@operation()
def up(units: list[str] | Callable[[], list[str]]) -> Iterator[StringCommand]:
    """Start the units that are not active."""
    facts = observe(host)
    down = [name for name in now(units) if facts.unit(name).active != "active"]
    if down:
        yield as_root_command(shlex.join(("systemctl", "start", "--", *down)))
    else:
        host.noop("all are up")
