"""The lock on a queen's state directory: one process at a time, as long as it holds the handle."""

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from rbee_runtime.errors import StateError

POLL_SECONDS = 0.02


def hold(directory: Path, wait: float, sleep: Callable[[float], None]) -> int:
    """Return a handle that holds the lock, waiting so many seconds for it, or raise StateError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = _lock_file(directory / "queen.lock")
    except OSError as error:
        raise StateError(f"cannot use {directory}: {error.strerror}; it must belong to the queen's user") from error
    for _ in range(int(wait / POLL_SECONDS) + 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        sleep(POLL_SECONDS)
    os.close(handle)
    raise StateError(
        f"another queen uses {directory}; stop it first (`systemctl stop rbee-queen`, or Ctrl-C where it runs)"
    )


def _lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        if not path.exists():
            raise
        # On a file system that became read-only a lock still keeps others away.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
