"""The queen's database: a copy before another release may change it, and the way back to that copy.

A release that is gone back to reads the database as it is, unless the newer one moved its schema on: only then is the
copy put back, for everything written since would be lost with it (keys made and revoked). The epoch goes on
counting: hives refuse a queen with a lower one.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from rbee_deploy.activator import disk, places
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

FILE = "queen.db"
LOCK = "queen.lock"


def path() -> Path:
    """Return the database in use."""
    return ports.QUEEN_STATE / FILE


def copy_of(generation: str) -> Path:
    """Return where the copy of a generation's database lies."""
    return places.DATABASES / f"{generation or 'first'}.db"


def snapshot(to: Path) -> bool:
    """Copy the database while it may be in use; say whether there is one."""
    if not path().is_file():
        return False
    disk.private_folder(to.parent)
    draft = to.with_name(f".{to.name}.rbee-new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    try:
        with _opened(path()) as source, _opened(draft) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        draft.unlink(missing_ok=True)
        raise ActivationError(f"cannot copy {path()}: {error}; repair it or move it away") from error
    draft.replace(to)
    disk.settle(to.parent)
    return True


def check(file: Path) -> int:
    """Return the schema version of a database that is sound, or raise ActivationError."""
    try:
        with _opened(file) as db:
            verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise ActivationError(f"{file} is no database that can be used: {error}") from error
    if verdict != "ok":
        raise ActivationError(f"{file} is damaged: {verdict}")
    return version


def moved_on(copy: Path) -> bool:
    """Say whether the schema of the database in use is another one than the copy's."""
    return copy.is_file() and path().is_file() and check(copy) != _version(path())


def restore(copy: Path) -> None:
    """Put a copy in place of the database; nobody may be using it. What is there is kept beside it."""
    check(copy)
    owner = ports.QUEEN_STATE.stat()
    with _lock():
        epoch = _epoch(path())
        for suffix in ("", "-wal", "-shm"):
            old = Path(f"{path()}{suffix}")
            if old.is_file():
                old.replace(f"{path()}.replaced{suffix}")
        disk.write(path(), copy.read_bytes(), owner=(owner.st_uid, owner.st_gid))
        _raise_epoch(path(), epoch)
        os.chown(path(), owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"file:{file}?mode=rw", uri=True, isolation_level=None, timeout=5)
    try:
        yield db
    finally:
        db.close()


def _version(file: Path) -> int:
    with contextlib.suppress(sqlite3.Error), _opened(file) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    return -1


def _epoch(file: Path) -> int:
    with contextlib.suppress(sqlite3.Error, TypeError, ValueError), _opened(file) as db:
        return int(db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])
    return 0


def _raise_epoch(file: Path, epoch: int) -> None:
    with contextlib.suppress(sqlite3.Error), _opened(file) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("UPDATE meta SET value = ? WHERE name = 'epoch' AND CAST(value AS INTEGER) < ?", (str(epoch), epoch))


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock that a queen takes before it opens the file; one that starts meanwhile waits for it."""
    handle = os.open(ports.QUEEN_STATE / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        owner = ports.QUEEN_STATE.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
