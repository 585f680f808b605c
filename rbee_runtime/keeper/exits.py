"""The exit statuses of `rbee-keeper`: one table for every command."""

from enum import IntEnum

from rbee_runtime.early_interrupt import STATUS
from rbee_runtime.errors import ConfigError, QueenUnreachableError, ReferenceFormError


class Exit(IntEnum):
    """How a command ended, as its caller sees it."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = STATUS


MEANINGS: dict[Exit, str] = {
    Exit.DONE: "done, or nothing was to be done",
    Exit.FAILED: "the fleet said no or failed, an answer broke off, or the output could not be written",
    Exit.USAGE: "a wrong command, option, name of a file or address; nothing was asked of the fleet",
    Exit.UNREACHABLE: "no queen answers at that address, or what answers is none",
    Exit.INTERRUPTED: "Ctrl-C",
}
"""In words, for help and documentation."""


def exit_of(error: BaseException) -> Exit:
    """Return the status for an error that was told."""
    if isinstance(error, QueenUnreachableError):
        return Exit.UNREACHABLE
    if isinstance(error, ConfigError | ReferenceFormError):
        return Exit.USAGE
    return Exit.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Exit.FAILED
