"""The locks under which tools of shadow, such as useradd, change /etc/subuid and /etc/subgid.

They wait for each other by lckpwdf(3), a lock on /etc/.pwd.lock, and then take `<file>.lock`, a link to a file with the
pid of who has it; one whose process is gone is nobody's. Their own tool for these files, usermod, takes nothing back
from a user who has a process, as one who lingers always has.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rbee_deploy.activator import disk
from rbee_deploy.activator.units import ActivationError

PASSWORDS = Path("/etc/.pwd.lock")
WAIT_SECONDS = 30.0
"""Such a tool is done within a second."""

_POLL_SECONDS = 0.05
_MOST_PID = 32


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold both locks; ActivationError where somebody else does for longer than it takes."""
    deadline = time.monotonic() + WAIT_SECONDS
    handle = os.open(PASSWORDS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while not _lock(handle):
            _wait(deadline, PASSWORDS)
        lock = path.with_name(f"{path.name}.lock")
        with _pid_beside(path) as mine:
            while not _linked(mine, lock):
                _wait(deadline, lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _pid_beside(path: Path) -> Iterator[Path]:
    """Yield a file with our pid, named as shadow names it."""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    disk.write(mine, f"{os.getpid()}\0".encode())
    try:
        yield mine
    finally:
        mine.unlink()


def _linked(mine: Path, lock: Path) -> bool:
    """Take the second lock, unless a process that runs has it."""
    if os.path.lexists(lock) and not _is_held(lock):
        lock.unlink(missing_ok=True)
    try:
        lock.hardlink_to(mine)
    except FileExistsError:
        return False
    return True


def _is_held(lock: Path) -> bool:
    """Say whether who has taken a lock may still run."""
    try:
        text = disk.read_untrusted(lock, most=_MOST_PID).rstrip(b"\0\n")
        os.kill(int(text), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, ValueError, OverflowError):
        # Whatever that is, it is none of ours to take away.
        return True
    return True


def _wait(deadline: float, lock: Path) -> None:
    if time.monotonic() > deadline:
        raise ActivationError(
            f"somebody holds {lock} for more than {WAIT_SECONDS:.0f} s: end the useradd or usermod that hangs, or "
            "remove it if there is none, and run the same command again"
        )
    time.sleep(_POLL_SECONDS)
