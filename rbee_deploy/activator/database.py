"""The queen's database: a copy before another release may change it, and the way back to that copy.

A release that is gone back to reads the database as it is, unless the newer one moved its schema on: only then is the
copy put back, for everything written since would be lost with it (keys made and revoked). The epoch goes on
counting: hives refuse a queen with a lower one.
"""

import contextlib
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from rbee_deploy.activator import disk, places, units
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

FILE = "queen.db"
LOCK = "queen.lock"
LOCK_SECONDS = 30.0


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


def set_aside(to: Path) -> None:
    """Keep a database that is damaged as it is; `snapshot` takes only what can be read."""
    disk.private_folder(to.parent)
    disk.write(to, path().read_bytes())


def is_damage(error: BaseException | None) -> bool:
    """Say whether it is the file that is not whole, and not its disk or a lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_sound(file: Path) -> bool:
    """Say whether a database can be read to its end; a copy of one that cannot is made without a word."""
    try:
        check(file)
    except ActivationError:
        return False
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
    """Say whether the database in use has another schema than the copy, or is gone: an older release needs the copy."""
    return copy.is_file() and (not path().is_file() or check(copy) != _version(path()))


def keys(file: Path) -> dict[str, tuple[str, bool]] | None:
    """Return the name of every key and whether it is valid, by id; None where that cannot be read."""
    with contextlib.suppress(sqlite3.Error), _opened(file) as db:
        return {row[0]: (row[1], not row[2]) for row in db.execute("SELECT id, name, revoked FROM keys ORDER BY id")}
    return None


def restore(copy: Path) -> None:
    """Put a copy in place of the database; nobody may be using it. What is there is kept beside it.

    Whatever ends it half-way, there is a whole database in use: the old one or the copy, and never with a lower epoch.
    """
    check(copy)
    if path().is_symlink():
        raise ActivationError(f"{path()} is a link, which root does not follow; put the database itself there")
    owner, replaced = ports.QUEEN_STATE.stat(), Path(f"{path()}.replaced")
    with _lock():
        content = _with_epoch(copy, max(_epoch(path()), _epoch(replaced)))
        ready = path().with_name(f".{FILE}.ready")
        disk.write(ready, content, owner=(owner.st_uid, owner.st_gid))
        _fold(path())
        if path().is_file():
            _link(path(), replaced)
        _take_place(ready)


def _take_place(ready: Path) -> None:
    """Put what is complete in place of the database, in one step."""
    ready.replace(path())
    disk.settle(path().parent)


def _with_epoch(copy: Path, epoch: int) -> bytes:
    """Return the content of a copy that is not behind its hives; it is made where only root writes."""
    draft = copy.with_name(f".{copy.name}.rbee-new")
    try:
        disk.write(draft, copy.read_bytes())
        with _opened(draft) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            _raise_epoch(db, epoch)
        return draft.read_bytes()
    except sqlite3.Error as error:
        raise ActivationError(f"cannot prepare {copy}: {error}; see that there is space on its disk") from error
    finally:
        draft.unlink(missing_ok=True)


def _fold(file: Path) -> None:
    """Leave a database without a journal beside it, which would be taken for that of the one that replaces it."""
    with contextlib.suppress(sqlite3.Error), _opened(file) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    for suffix in ("-wal", "-shm"):
        # Only of one that cannot be opened; what an earlier one left belongs to nothing.
        Path(f"{file}.replaced{suffix}").unlink(missing_ok=True)
        journal = Path(f"{file}{suffix}")
        if journal.is_file():
            journal.replace(f"{file}.replaced{suffix}")


def _link(file: Path, to: Path) -> None:
    """Give a file a second name, in place of whatever has that."""
    if to.exists() and to.samefile(file):
        return
    draft = to.with_name(f".{to.name}.rbee-new")
    draft.unlink(missing_ok=True)
    os.link(file, draft, follow_symlinks=False)
    draft.replace(to)


def stop_queen() -> None:
    """Stop her, and first the socket, at which any request would start her again."""
    units.systemctl("stop", "--", ports.QUEEN_SOCKET_UNIT, ports.QUEEN_UNIT)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    if not stat.S_ISREG(os.lstat(file).st_mode if os.path.lexists(file) else 0):
        raise sqlite3.OperationalError(f"{file} is not a file")
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


def _raise_epoch(db: sqlite3.Connection, epoch: int) -> None:
    # Not suppressed where it fails: hives would refuse a queen with a lower one.
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'").fetchone():
        db.execute("UPDATE meta SET value = ? WHERE name = 'epoch' AND CAST(value AS INTEGER) < ?", (str(epoch), epoch))


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock that a queen takes before it opens the file, or raise ActivationError if one keeps it."""
    name = ports.QUEEN_STATE / LOCK
    # The folder is the queen's: root must not be led elsewhere by what lies there.
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise ActivationError(f"{name} is not the file that a queen makes; remove it")
        owner = ports.QUEEN_STATE.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)
        deadline = time.monotonic() + LOCK_SECONDS
        while not _is_taken(handle):
            if time.monotonic() > deadline:
                raise ActivationError(f"a queen uses {path()} although she was stopped; stop her and try again")
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _is_taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
