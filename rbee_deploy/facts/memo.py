"""What a host is right now: RbeeState read at most once per phase, and again after anything ran there."""

from typing import Any

from rbee_deploy.elevation import stdin
from rbee_deploy.facts.state import Asked, RbeeState
from rbee_deploy.observed import Observed
from rbee_deploy.secrets import Secret

ASKED = "rbee_asked"
PASSWORD = "rbee_sudo_password"  # noqa: S105 - a key, not a password
COMMANDS = "rbee_commands"
_MEMO = "rbee_observed"


def observe(host: Any) -> Observed:
    """Return the host's state: the one at hand, unless a command ran since or the run entered its next phase."""
    now = (getattr(host.state, "current_stage", None), host.connector_data.get(COMMANDS, 0))
    moment, known = host.connector_data.get(_MEMO, (None, None))
    if isinstance(known, Observed) and moment == now:
        return known
    password: Secret | None = host.connector_data.get(PASSWORD)
    asked = host.connector_data.get(ASKED, Asked())
    fresh = Observed.parse(host.get_fact(RbeeState, asked=asked, _sudo=False, _stdin=stdin(password=password)))
    host.connector_data[_MEMO] = ((now[0], host.connector_data.get(COMMANDS, 0)), fresh)
    return fresh


def observe_anew(host: Any) -> Observed:
    """Return the host's state as it is now, for whoever waits for a change that no command of ours makes."""
    host.connector_data.pop(_MEMO, None)
    return observe(host)


def last_known(host: Any) -> Observed:
    """Return the state that was read last, without asking again."""
    _, known = host.connector_data.get(_MEMO, (None, None))
    return known if isinstance(known, Observed) else Observed.parse(RbeeState.default())


def count_commands(host: Any) -> None:
    """Count what goes over the wire to a host, once per connector: the budget, and what makes a state stale."""
    connector = host.connector
    if getattr(connector, "rbee_counts", False):
        return

    def counted(send: Any) -> Any:
        def sending(*arguments: Any, **named: Any) -> Any:
            host.connector_data[COMMANDS] = host.connector_data.get(COMMANDS, 0) + 1
            return send(*arguments, **named)

        return sending

    connector.rbee_uncounted = connector.run_shell_command
    connector.run_shell_command = counted(connector.run_shell_command)
    connector.put_file = counted(connector.put_file)
    connector.rbee_counts = True
