"""The most memory that one worker may take where nobody names another: a share of its host's.

It is there so that a worker that leaks ends by itself, and not its neighbours or sshd. systemd reads the share as it
stands (`MemoryMax=` of the worker's unit); hive and guard make bytes of it for containers. The standard library alone,
as the guard.
"""

import os
from collections.abc import Callable

MEMORY_PERCENT = 90
"""Of all memory that the host has; the rest is enough for the system, queen and hive even on hosts of 8 GiB."""


def memory(given: int | None, *, sysconf: Callable[[str], int] = os.sysconf) -> int | None:
    """Return bytes that a worker may take: those that are given, else the share; None where the host does not tell.

    The kernel is asked and no file: units that hide those of `/proc` hide none of this, and a container has the memory
    of its host here. So hive and guard come to the same number wherever they run, and systemd, which asks likewise.
    """
    if given is not None:
        return given
    try:
        total = sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    return total * MEMORY_PERCENT // 100 if total > 0 else None
