"""Ctrl-C: say what it means for the hosts, and end with exit status 1; pyinfra's own handler ends with 0."""

import signal
import sys

SENTENCE = "interrupted: what runs goes on running; the same command finishes the job"


def arm() -> None:
    """Take over SIGINT for the rest of the process."""
    signal.signal(signal.SIGINT, _stop)


def _stop(_number: int, _frame: object) -> None:
    # A second one would cut the report short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(SENTENCE, file=sys.stderr, flush=True)
    sys.exit(1)
