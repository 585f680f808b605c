"""The queen's memory: one SQLite file, one writer connection, one process at a time.

A file that can be read and not written (read-only, or its disk is full) does not keep a queen from starting: she serves
from a copy in memory, and each write says why it cannot be.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime import logs
from rbee_runtime.errors import DamagedStateError, StateError
from rbee_runtime.protocol import WorkerSpec, decode
from rbee_runtime.queen import schema, state_lock
from rbee_runtime.queen.records import (
    Assignment,
    Cause,
    HiveRecord,
    KeyLimits,
    KeyRecord,
    LoadRecord,
    Priority,
    Scope,
    UsageRow,
)
from rbee_runtime.states import Intent, Observed

_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_KEY_COLUMNS = (
    "id, name, digest, scopes, models, created, revoked, expires, "
    "concurrency, requests_per_minute, tokens_per_minute, priority, parent, used"
)
_ADD_USAGE = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, key, model) DO UPDATE SET
    requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    answer_tokens = answer_tokens + excluded.answer_tokens, errors = errors + excluded.errors,
    estimated = estimated + excluded.estimated
"""
_USAGE = """
SELECT day, key, model, requests, prompt_tokens, answer_tokens, errors, estimated FROM usage
WHERE day BETWEEN :since AND :until AND :key IN ('', key) AND :model IN ('', model)
ORDER BY day, key, model LIMIT :most
"""


class Store:
    """An open state directory; holds its lock until `close`.

    `problem` says why this one is a copy in memory that takes no writes, "" for the usual one.
    """

    def __init__(self, directory: Path, *, lock_wait: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self._path = directory / "queen.db"
        self._turn, self._within = threading.RLock(), False
        self._lock = state_lock.hold(directory, lock_wait, sleep)
        self.problem = ""
        try:
            self._db = self._opened()
        except BaseException:
            os.close(self._lock)
            raise

    def _opened(self) -> sqlite3.Connection:
        try:
            return _open(self._path)
        except StateError as error:
            return self._in_memory(error)

    def _in_memory(self, error: StateError) -> sqlite3.Connection:
        """Return a copy of what is in the file, or raise `error` if there is nothing that a queen could serve from."""
        copy = _copy(self._path) if is_unwritable(error) else None
        if copy is None:
            raise error
        self.problem = f"{error}; until then, and a restart, this queen serves from memory and changes nothing"
        logs.error("state read only", why=self.problem)
        return copy

    def close(self) -> None:
        """Close the file and let another queen have it."""
        if self._lock < 0:
            return
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        os.close(self._lock)
        self._lock = -1

    def start_epoch(self, fleet: str) -> int:
        """Raise and return the epoch, or raise StateError if the directory belongs to another fleet.

        Where it cannot be raised it stays: hives then keep the documents that they follow, and no queen passes for a
        newer one than she is.
        """
        known = self.meta("fleet")
        if known is not None and known != fleet:
            raise StateError(
                f"{self._path} belongs to fleet {known!r}, not {fleet!r}; set the old name or move the file away"
            )
        held = int(self.meta("epoch") or 0)
        try:
            with self._write() as db:
                _put_meta(db, "fleet", fleet)
                _put_meta(db, "epoch", str(held + 1))
        except StateError as error:
            if not held:
                raise
            if not self.problem:
                copy = self._in_memory(error)
                self._db.close()
                self._db = copy
            return held
        return held + 1

    def meta(self, name: str) -> str | None:
        """Return a remembered value."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_meta(self, name: str, value: str) -> None:
        """Remember a value."""
        with self._write() as db:
            _put_meta(db, name, value)

    def drop_meta(self, name: str) -> None:
        """Forget a value."""
        with self._write() as db:
            db.execute("DELETE FROM meta WHERE name = ?", (name,))

    def all_keys(self) -> list[KeyRecord]:
        """Return every key, revoked ones included."""
        rows = self._db.execute(f"SELECT {_KEY_COLUMNS} FROM keys ORDER BY created, rowid")  # noqa: S608 - a constant
        return [_key(row) for row in rows]

    def put_key(self, key: KeyRecord) -> None:
        """Add or replace a key."""
        row = _key_row(key)
        with self._write() as db:
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT OR REPLACE INTO keys ({_KEY_COLUMNS}) VALUES ({marks})", row)  # noqa: S608 - a constant

    def add_usage(self, rows: Iterable[UsageRow], used: Mapping[str, int], *, source: str = "") -> bool:
        """Add to what was used, and note when keys were used last; all of it or nothing.

        Rows of one `source` are added once however often that is asked for; say whether they were added now. The last
        of it may be lost with the power, not with the process: this is written often, and keys are not.
        """
        with self._write(synchronous="NORMAL") as db:
            if source and not db.execute("INSERT OR IGNORE INTO meta VALUES (?, '')", (source,)).rowcount:
                return False
            db.executemany(_ADD_USAGE, [astuple(row) for row in rows])
            db.executemany("UPDATE keys SET used = ? WHERE id = ?", [(minute, key) for key, minute in used.items()])
        return True

    def usage(self, *, key: str, model: str, since: str, until: str, most: int) -> list[UsageRow]:
        """Return what was used from one day to another, both included, oldest first; "" is any key or any model."""
        asked = {"key": key, "model": model, "since": since, "until": until, "most": most}
        try:
            return [UsageRow(*row) for row in self._db.execute(_USAGE, asked)]
        except sqlite3.Error as error:
            raise StateError(f"cannot read {self._path}: {error}; restore it from a backup") from error

    def drop_usage(self, before: str) -> None:
        """Forget what was used before a day."""
        with self._write(synchronous="NORMAL") as db:
            db.execute("DELETE FROM usage WHERE day < ?", (before,))

    def hives(self) -> list[HiveRecord]:
        """Return every hive ever heard of or drained."""
        rows = self._db.execute("SELECT name, url, drained FROM hives ORDER BY name")
        return [HiveRecord(name, url, bool(drained)) for name, url, drained in rows]

    def put_hive(self, hive: HiveRecord) -> None:
        """Add or replace a hive."""
        with self._write() as db:
            db.execute(
                "INSERT INTO hives VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET url = excluded.url, drained = excluded.drained",
                (hive.name, hive.url, int(hive.drained)),
            )

    def assignments(self) -> list[Assignment]:
        """Return every assignment, oldest first."""
        rows = self._db.execute(
            "SELECT spec, hive, content, intent, address, port, observed, slots FROM assignments ORDER BY rowid"
        )
        return [_assignment(row) for row in rows]

    def change_assignments(self, put: Iterable[Assignment], drop: Iterable[str]) -> None:
        """Add or update some assignments and forget others, all of it or nothing."""
        with self._write() as db:
            db.executemany("DELETE FROM assignments WHERE id = ?", [(worker,) for worker in drop])
            for entry in put:
                db.execute("INSERT OR IGNORE INTO hives VALUES (?, '', 0)", (entry.hive,))
                db.execute(
                    "INSERT INTO assignments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                    "spec = excluded.spec, content = excluded.content, intent = excluded.intent, "
                    "address = excluded.address, port = excluded.port, observed = excluded.observed, "
                    "slots = excluded.slots WHERE hive = excluded.hive",
                    _assignment_row(entry),
                )

    def loads(self) -> list[LoadRecord]:
        """Return every load that goes on, the oldest first."""
        rows = self._db.execute("SELECT model, content, cause, created, failures FROM load_jobs ORDER BY created")
        return [
            LoadRecord(model, content, Cause(cause), created, failures)
            for model, content, cause, created, failures in rows
        ]

    def put_load(self, load: LoadRecord) -> None:
        """Add or replace the load of a model."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO load_jobs VALUES (?, ?, ?, ?, ?)", astuple(load))

    def drop_load(self, model: str) -> None:
        """Forget the load of a model, which is over."""
        with self._write() as db:
            db.execute("DELETE FROM load_jobs WHERE model = ?", (model,))

    @contextlib.contextmanager
    def together(self, *, durable: bool) -> Iterator[None]:
        """Make one write of those of this thread in the block: the disk is waited for once, all of it or nothing.

        What is not `durable` may be lost with the power, not with the process.
        """
        with self._write(synchronous="FULL" if durable else "NORMAL"):
            yield

    @contextlib.contextmanager
    def _write(self, *, synchronous: str = "FULL") -> Iterator[sqlite3.Connection]:
        if self.problem:
            raise StateError(self.problem)
        with self._turn:
            if self._within:
                # Of this thread, whose turn it is.
                yield self._db
                return
            with self._transaction(synchronous):
                self._within = True
                try:
                    yield self._db
                finally:
                    self._within = False

    @contextlib.contextmanager
    def _transaction(self, synchronous: str) -> Iterator[None]:
        try:
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # A disk that filled up has ended the transaction already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise StateError(f"cannot write {self._path}: {error}; check its owner and the free space there") from error


def may_pass(failure: StateError) -> bool:
    """Say whether the same write may succeed later, by itself or once there is room."""
    code = getattr(failure.__cause__, "sqlite_errorcode", 0) & 0xFF
    return is_unwritable(failure) or code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_unwritable(failure: StateError) -> bool:
    """Say whether it is the disk or its rights that failed; a lock passes, and damage does not."""
    error = failure.__cause__
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE
    return isinstance(error, OSError)


def _copy(path: Path) -> sqlite3.Connection | None:
    """Return a database in memory with what is in a file and its log, None if there is none that is whole and current.

    The files are copied to the folder for temporary ones first: SQLite reads a log only where it may write beside it.
    """
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError, sqlite3.Error):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rbee-queen-")))
        shutil.copyfile(path, folder / path.name)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(f"{path.name}-wal"), folder / f"{path.name}-wal")
        with contextlib.closing(sqlite3.connect(folder / path.name)) as found:
            memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            if found.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok" and schema.is_current(found):
                found.backup(memory)
                return memory
            memory.close()
    return None


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.touch(mode=0o600, exist_ok=True)
        with contextlib.ExitStack() as failed:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            failed.callback(db.close)
            _prepare(db, path)
            failed.pop_all()
    except (OSError, sqlite3.Error) as error:
        damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
        kind = DamagedStateError if damaged else StateError
        raise kind(f"cannot use {path}: {error}; restore it from a backup or move it away") from error
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA busy_timeout = 5000")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        said = " ".join(verdict.split())
        raise DamagedStateError(f"{path} is damaged ({said}); restore it from a backup or move it away")
    schema.upgrade(db, path)


def _put_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _key(row: tuple[Any, ...]) -> KeyRecord:
    key_id, name, digest, scopes, models, created, revoked, expires, *limits, priority, parent, used = row
    return KeyRecord(
        id=key_id,
        name=name,
        digest=digest,
        scopes=frozenset(decode(scopes, list[Scope])),
        models=decode(models, tuple[str, ...]),
        created=created,
        revoked=revoked,
        expires=expires,
        limits=KeyLimits(*limits),
        priority=Priority(priority),
        parent=parent,
        used=used,
    )


def _key_row(key: KeyRecord) -> tuple[str | int | None, ...]:
    rights = (_json(sorted(key.scopes)), _json(key.models))
    times = (key.created, key.revoked, key.expires)
    return (key.id, key.name, key.digest, *rights, *times, *astuple(key.limits), key.priority, key.parent, key.used)


def _assignment(row: tuple[str, str, str, str, str, int, str, int]) -> Assignment:
    spec, hive, content, intent, address, port, observed, slots = row
    return Assignment(
        spec=decode(spec, WorkerSpec),
        hive=hive,
        content=content,
        intent=Intent(intent),
        address=address,
        port=port,
        observed=Observed(observed) if observed else None,
        slots=slots,
    )


def _assignment_row(entry: Assignment) -> tuple[str | int, ...]:
    spec = _json(entry.spec)
    seen = (entry.address, entry.port, str(entry.observed or ""), entry.slots)
    return (entry.id, entry.hive, entry.spec.model, spec, entry.content, str(entry.intent), *seen)
