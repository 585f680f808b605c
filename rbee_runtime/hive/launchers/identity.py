"""Which process is meant: a pid with its kernel start time and boot id, because pids are used again."""

import contextlib
import os
import signal
from functools import cache
from pathlib import Path

from rbee_runtime import running

_PROC = Path("/proc")


@cache
def boot_id() -> str:
    """Return the id of this boot of the kernel."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone or only waits to be reaped."""
    state, started = _stat(pid)
    return None if state in "ZX" else started


def _stat(pid: int) -> tuple[str, int]:
    try:
        # One path, made in one go: every worker is asked each second.
        stat = Path(f"{_PROC}/{pid}/stat").read_text()
    except (OSError, ValueError):
        return "X", 0
    # The command name may hold spaces and brackets; the fields after its last bracket do not.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def reap(pid: int, started: int, boot: str) -> None:
    """Let go of exactly the recorded process if it has ended and its parent before it.

    The first process of a container inherits such children; on hosts somebody else does.
    """
    if running.is_first() and boot == boot_id() and _stat(pid) == ("Z", started):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def is_same(pid: int, started: int, boot: str) -> bool:
    """Say whether the process that was recorded still lives."""
    return boot == boot_id() and pid > 0 and start_time(pid) == started


def send(pid: int, started: int, boot: str, number: signal.Signals) -> bool:
    """Signal exactly the recorded process; False if it is gone, whoever has its pid now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The descriptor pins the process first, so that the check and the signal are about the same one.
        if not is_same(pid, started, boot):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
