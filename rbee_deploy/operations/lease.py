"""Take a host's lease before anything is changed there, keep it alive, and give it back however the run ends."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.context import ctx_host

from rbee_deploy import lease
from rbee_deploy.elevation import as_root, stdin
from rbee_deploy.facts.memo import PASSWORD, observe
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import LEASE, RUN, as_root_command

_SECONDS = 20.0
"""For a script beside the operation at hand: short enough that the next sign of life is in time for the lease."""


def run_id(state: Any) -> str:
    """Return the id of this run, the same for all its hosts."""
    made: str = state.__dict__.setdefault(RUN, lease.new_id())
    return made


@operation()
def taken(needed: bool | Callable[[], bool]) -> Iterator[StringCommand]:
    """Take the lease of a host on which there is something to do; a dry run takes none."""
    if not host.state.is_executing or not now(needed):
        host.noop("nothing is to be done")
        return
    run = run_id(host.state)
    held = observe(host).raw.get("lease") or {}
    ended = str(held.get("id", "")) if lease.has_ended(str(held.get("id", ""))) else ""
    yield as_root_command(lease.take(run, lease.operator(), ended=ended))
    _keep(ctx_host.get(), run)


def take_again(mine: Any) -> bool:
    """Take the lease of this run once more on a host that was rebooted, which forgets it; say whether that worked."""
    return _send(mine, lease.take(run_id(mine.state), lease.operator()))


def _keep(mine: Any, run: str) -> None:
    mine.connector_data[LEASE] = run
    renewing = gevent.spawn(_renew, mine, run)
    disconnect = mine.connector.disconnect

    def disconnecting() -> None:
        renewing.kill(block=False)
        if mine.connector_data.pop(LEASE, None) is not None:
            _send(mine, lease.give_back(run))
        disconnect()

    mine.connector.disconnect = disconnecting


def _renew(mine: Any, run: str) -> None:
    """Give signs of life while a command takes long; a host that failed is left to whoever puts it right."""
    while mine.connector_data.get(LEASE) == run and mine not in mine.state.failed_hosts:
        gevent.sleep(lease.RENEW_SECONDS)
        _send(mine, lease.held(run))


def _send(mine: Any, script: str) -> bool:
    """Run a script as root beside the operation at hand; it changes nothing of the host that we read."""
    password = mine.connector_data.get(PASSWORD)
    line = StringCommand(as_root(script, password=password is not None))
    arguments: dict[str, Any] = {} if password is None else {"_stdin": stdin(password=password)}
    done: Any = (False,)
    try:
        # The SSH library itself waits an hour for a connection that no longer answers to open a channel.
        with gevent.Timeout(_SECONDS, exception=False):
            done = mine.connector.rbee_uncounted(line, print_output=False, print_input=False, **arguments)
    except Exception:  # noqa: BLE001 - the connection may be gone in any way; the lease ends by itself then
        return False
    return bool(done[0])
