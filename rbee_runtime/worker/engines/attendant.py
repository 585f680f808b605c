"""Processes that belong to a front: how it starts them, and how they make sure to end with it."""

import ctypes
import os
import signal
import sys

_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

_BECOME = f"""\
import ctypes, os, sys
front = os.getppid()
ctypes.CDLL(None).prctl({_DEATH_SIGNAL}, {int(signal.SIGKILL)})
if os.getppid() == front:
    os.execvp(sys.argv[1], sys.argv[1:])
"""


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs `main` of a module by this interpreter; nothing of the working directory counts."""
    return (sys.executable, "-P", "-c", f"from {module} import main; main()", *arguments)


def becoming(*program: str) -> tuple[str, ...]:
    """Return the command that turns into a program of its own, which ends with its front as well."""
    return (sys.executable, "-I", "-S", "-c", _BECOME, *program)


def environment() -> dict[str, str]:
    """Return the variables with which it finds what this process finds, whichever way that was started."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def attend() -> bool:
    """Have the kernel end this process with its front, and nothing else; False if that is gone already.

    A service manager's stop may go to the whole control group. When it is over the front says, for it has answers to
    finish.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return _end_with_front()


def _end_with_front() -> bool:
    front = os.getppid()
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    return os.getppid() == front
