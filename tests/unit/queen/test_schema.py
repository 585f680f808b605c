"""The queen's database moves on from what older releases wrote, and never back."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_runtime.errors import StateError
from rbee_runtime.queen import schema
from rbee_runtime.queen.grants import may_use
from rbee_runtime.queen.keys import Keys, digest
from rbee_runtime.queen.records import NO_LIMITS, Cause, HiveRecord, LoadRecord, Priority, Scope
from rbee_runtime.queen.store import Store

FIRST = Path(__file__).resolve().parents[2] / "recordings" / "queen" / "schema-1.db"
"""Written by release 0.1.0: a bootstrap key, an admin's, a guest's, one that was revoked, a drained hive, a worker."""

GUEST = "rbee_gkxkgf63_WcU28QTrIm9atApVrjmy4Vp1T1phk9K2rwo2ccdRT7t"
BOOTSTRAP = f"rbee_boot0000_{'b' * 43}"
BOTH = {Scope.ADMIN_READ, Scope.ADMIN_WRITE}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the database of an older release where a queen looks for hers."""
    shutil.copy(FIRST, tmp_path / "queen.db")
    return tmp_path / "queen.db"


@contextlib.contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(file)
    yield db
    db.close()


def version(file: Path) -> int:
    with opened(file) as db:
        return schema.version(db)


def test_the_first_schema_is_taken_over(file: Path) -> None:
    """Every key works as before, with both admin scopes for the one that there was; hives and workers stay."""
    store = Store(file.parent)
    keys = Keys(store)
    found = {record.name: record for record in store.all_keys()}
    assert {name: record.scopes for name, record in found.items()} == {
        "bootstrap": set(Scope),
        "ops": BOTH,
        "guest": {Scope.INFER},
        "gone": set(Scope),
    }
    assert [record.name for record in keys.active()] == ["bootstrap", "ops", "guest"]
    assert [record.name for record in found.values() if record.priority is Priority.INTERACTIVE] == [
        "bootstrap",
        "ops",
        "gone",
    ]
    guest = keys.authenticate(f"Bearer {GUEST}")
    assert guest is not None
    assert [may_use(guest, name) for name in ("smol", "llama3", "qwen")] == [True, True, False]
    assert (guest.limits, guest.priority, guest.expires, guest.parent) == (NO_LIMITS, Priority.NORMAL, 0, "")
    assert store.hives() == [HiveRecord("gpu1", "https://gpu1:8600", drained=True)]
    assert [(entry.id, entry.address, entry.slots) for entry in store.assignments()] == [("smol-1", "192.0.2.7", 4)]
    assert store.start_epoch("home") == 2
    store.close()


def test_a_bootstrap_key_is_known_after_the_move(file: Path) -> None:
    """The operator's file is not taken for a new key, and that key has every right, so that it can give them."""
    store = Store(file.parent)
    keys = Keys(store)
    line = file.with_name("bootstrap")
    line.write_text(f"boot0000:{digest(BOOTSTRAP)}\n")
    assert not keys.import_bootstrap(line)
    record = keys.authenticate(f"Bearer {BOOTSTRAP}")
    assert keys.create("new", Scope, creator=record)[0].scopes == set(Scope)
    store.close()


def test_the_file_as_it_was_is_kept(file: Path) -> None:
    """A copy from before the move is beside it, whole, for its owner alone; opening again makes no other one."""
    for _ in range(2):
        Store(file.parent).close()
        copy = schema.kept(file, 1)
        assert (version(file), version(copy)) == (schema.SCHEMA_VERSION, 1)
        assert copy.stat().st_mode & 0o777 == 0o600
        with opened(copy) as db:
            assert db.execute("SELECT count(*) FROM keys").fetchone() == (4,)
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        assert {path.name for path in file.parent.iterdir()} <= {"queen.db", "queen.lock", copy.name}


def test_loads_of_a_queen_between_two_releases_go_on(tmp_path: Path) -> None:
    """Such a queen kept them beside the second version; a file of that is moved on with what is in them."""
    load = LoadRecord("m", "c", Cause.OPERATOR, 5.0, 2)
    store = Store(tmp_path)
    store.put_load(load)
    store.close()
    with opened(tmp_path / "queen.db") as db:
        db.execute("PRAGMA user_version = 2")
    store = Store(tmp_path)
    assert store.loads() == [load]
    store.close()
    assert version(tmp_path / "queen.db") == schema.SCHEMA_VERSION


def test_a_move_that_fails_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one transaction: what an older release can read is still there, and the sentence says what to do."""
    broken = (*schema._STEPS, "CREATE TABLE more (x TEXT); CREATE TABLE keys (x TEXT);")
    monkeypatch.setattr(schema, "_STEPS", broken)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", len(broken))
    with pytest.raises(StateError, match="table keys already exists; restore it from a backup"):
        Store(file.parent)
    assert version(file) == 1
    with opened(file) as db:
        assert "usage" not in {row[0] for row in db.execute("SELECT name FROM sqlite_master")}


def test_without_a_copy_nothing_is_moved(file: Path) -> None:
    """Where the copy cannot be written, the file stays as it is."""
    schema.kept(file, 1).mkdir()
    (schema.kept(file, 1) / "x").touch()
    with pytest.raises(StateError, match="cannot use"):
        Store(file.parent)
    assert version(file) == 1
    assert not list(file.parent.glob(".*"))


def test_a_new_file_is_what_old_ones_become(file: Path, tmp_path: Path) -> None:
    """Both have the same tables, and a new one leaves no copy."""
    Store(file.parent).close()
    Store(tmp_path / "new").close()
    made = []
    for each in (file, tmp_path / "new" / "queen.db"):
        with opened(each) as db:
            made.append(sorted(db.execute("SELECT name, sql FROM sqlite_master").fetchall()))
    assert made[0] == made[1]
    assert not schema.kept(tmp_path / "new" / "queen.db", 0).exists()
