"""Ctrl-C: say what it means for the hosts, and end with exit status 1; pyinfra's own handler ends with 0."""

import signal
import sys
from typing import Any

import gevent
from pyinfra.context import ctx_state

SENTENCE = "interrupted: what runs goes on running; the same command finishes the job"

means = SENTENCE
"""What is said. A command that must not be typed again without a look sets its own."""


def arm() -> None:
    """Take over SIGINT for the rest of the process."""
    signal.signal(signal.SIGINT, _stop)


def happened() -> bool:
    """Say whether somebody has pressed it: what failed since then says nothing about the hosts."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def _stop(_number: int, _frame: object) -> None:
    # A second one ends it at once; `happened` knows by this, too, since Python itself never leaves the default.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(means, file=sys.stderr, flush=True)
    state: Any = ctx_state.get()
    if state is not None and state.initialised:
        # pyinfra disconnects by the same workers, and would wait for minutes of installation to end.
        state.pool.kill(block=False)
    _end()


def _end() -> None:
    """End the program from wherever the signal found it.

    It is taken by whichever greenlet runs just then. `SystemExit` in one that serves a connection ends that one alone,
    in silence, and the run would wait for its answer for ever: it has to be raised where the program itself waits.
    """
    hub = gevent.get_hub()
    if gevent.getcurrent() is hub.parent:
        sys.exit(1)
    hub.loop.run_callback(hub.parent.throw, SystemExit, SystemExit(1))
