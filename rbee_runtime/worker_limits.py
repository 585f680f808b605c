"""The most memory that one worker may take where nobody names another: a share of its host's.

It is there so that a worker that leaks ends by itself, and not its neighbours or sshd. systemd reads the share as it
stands (`MemoryMax=` of the worker's unit); hive and guard make bytes of it for containers. The standard library alone,
as the guard.
"""

from pathlib import Path

MEMORY_PERCENT = 90
"""Of all memory that the host has; the rest is enough for the system, queen and hive even on hosts of 8 GiB."""

_MEMINFO = Path("/proc/meminfo")


def memory(given: int | None, *, meminfo: Path = _MEMINFO) -> int | None:
    """Return bytes that a worker may take: those that are given, else the share; None where the host does not tell.

    A container shows the memory of its host here, so hive and guard come to the same number wherever they run.
    """
    if given is not None:
        return given
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return total * 1024 * MEMORY_PERCENT // 100
