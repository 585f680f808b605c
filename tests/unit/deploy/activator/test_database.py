"""The queen's database across releases: kept where it can be read, put back where it cannot, never behind its hives."""

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator import activation, database, disk, files, places, records, units
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.manifest import Role
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import FakeSystemd, staged


def queen_db(*, schema: int, epoch: int, key: str, revoked: str = "") -> None:
    """Write the database as a queen leaves it, with a key that is valid and one that is not."""
    database.path().unlink(missing_ok=True)
    with sqlite3.connect(database.path()) as db:
        db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute("CREATE TABLE keys (id TEXT, name TEXT, revoked INTEGER)")
        db.execute("INSERT INTO meta VALUES ('epoch', ?)", (str(epoch),))
        keys = [(key, f"of {key}", 0), *([(revoked, f"of {revoked}", 9)] if revoked else [])]
        db.executemany("INSERT INTO keys VALUES (?, ?, ?)", keys)
        db.execute(f"PRAGMA user_version = {schema}")
    db.close()


def content() -> tuple[int, int, list[str]]:
    """Return schema, epoch and keys."""
    db = sqlite3.connect(database.path())
    schema = db.execute("PRAGMA user_version").fetchone()[0]
    epoch = int(db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])
    keys = [row[0] for row in db.execute("SELECT id FROM keys")]
    db.close()
    return schema, epoch, keys


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


def killed(*_arguments: object) -> None:
    raise KilledError


def migrate(*, schema: int, epoch: int, key: str) -> None:
    """Do what a newer queen does when it starts."""
    queen_db(schema=schema, epoch=epoch, key=key)


def r2_migrates(systemd: FakeSystemd, patch: pytest.MonkeyPatch, *, kill: bool = False) -> None:
    """Have r2 migrate when it starts, and be killed then if so; r1 refuses what r2 migrated."""
    own = systemd.restart

    def restart(role: Role) -> None:
        if role.name == "queen" and ports.CURRENT.readlink().name == "r2":
            migrate(schema=2, epoch=6, key="lost")
            if kill:
                raise KilledError
        elif role.name == "queen" and content()[0] == 2:
            raise ActivationError("written by a newer rbee")
        own(role)

    patch.setattr(units, "restart", restart)


def cut_off(generation: str, patch: pytest.MonkeyPatch) -> None:
    """Have an activation of a generation be killed while it places files."""
    patch.setattr(files, "place", killed)
    with pytest.raises(KilledError):
        activation.activate(generation, Told())


@pytest.fixture
def upgraded(systemd: FakeSystemd) -> FakeSystemd:
    """Give a host on r1 with a database of schema 1."""
    activation.activate(staged("r1").id, Told())
    queen_db(schema=1, epoch=5, key="before")
    return systemd


def test_going_back_keeps_a_database_that_the_old_release_reads(upgraded: FakeSystemd) -> None:
    """Keys made since the upgrade survive a rollback when the schema is the same."""
    first = staged("r1").id
    activation.activate(staged("r2").id, Told())
    migrate(schema=1, epoch=7, key="since")
    activation.activate(first, Told(), goes_back=True)
    assert content() == (1, 7, ["since"])


def test_going_back_over_a_schema_puts_the_copy_back(upgraded: FakeSystemd) -> None:
    """The old release gets the database that it left, with an epoch that no hive refuses; the newer one is kept."""
    first = staged("r1").id
    activation.activate(staged("r2").id, Told())
    migrate(schema=2, epoch=9, key="since")
    activation.activate(first, Told(), goes_back=True)
    assert content() == (1, 9, ["before"])
    assert Path(f"{database.path()}.replaced").is_file()


def test_a_failed_upgrade_that_migrated_is_undone(upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that moves the schema on and then never becomes ready costs nothing that was written before."""
    r2_migrates(upgraded, monkeypatch)
    upgraded.bad.add("r2")
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r2").id, Told())
    assert content() == (1, 6, ["before"])


def test_a_queen_who_did_not_run_listens_again(upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed upgrade of a host whose queen was stopped leaves her socket as it was, which starts her when asked."""
    socket, queen = ports.QUEEN_SOCKET_UNIT, ports.QUEEN_UNIT
    second = staged("r2").id
    upgraded.systemctl("stop", queen)
    upgraded.systemctl("start", socket)
    enabled = replace(records.load(second), enabled=(*records.load(second).enabled, socket))
    disk.write(places.GENERATIONS / f"{enabled.id}.json", enabled.text().encode())
    r2_migrates(upgraded, monkeypatch)
    upgraded.bad.add("r2")
    with pytest.raises(ActivationError, match="r1 is in force again"):
        activation.activate(enabled.id, Told())
    assert upgraded.known[socket].active == "active"
    assert content() == (1, 6, ["before"])


def test_an_upgrade_never_puts_an_old_copy_back(upgraded: FakeSystemd) -> None:
    """Going forward again after a rollback leaves the database to the release, which knows how to migrate it."""
    first, second = staged("r1").id, staged("r2").id
    activation.activate(second, Told())
    migrate(schema=2, epoch=9, key="since")
    activation.activate(first, Told(), goes_back=True)
    activation.activate(second, Told())
    assert content() == (1, 9, ["before"])


def test_a_copy_is_whole_while_the_database_is_written(systemd: FakeSystemd) -> None:
    """A snapshot of a database in use holds what was committed, and passes SQLite's own check."""
    queen_db(schema=1, epoch=1, key="k")
    writer = sqlite3.connect(database.path(), isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO keys (id) VALUES ('committed')")
    writer.execute("BEGIN")
    writer.execute("INSERT INTO keys (id) VALUES ('open')")
    copy = places.DATABASES / "copy.db"
    assert database.snapshot(copy)
    writer.execute("ROLLBACK")
    writer.close()
    assert database.check(copy) == 1
    rows = [row[0] for row in sqlite3.connect(copy).execute("SELECT id FROM keys")]
    assert rows == ["k", "committed"]


MOMENTS = (
    "the copy is made",
    "the new one is written",
    "the old one gets its name",
    "it takes its place",
    "after",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_restore_that_is_cut_off_leaves_a_whole_database(
    upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed at any moment there is one in use, its epoch is not lower, and the same command finishes."""
    first = staged("r1").id
    activation.activate(staged("r2").id, Told())
    migrate(schema=2, epoch=9, key="since")
    cut: tuple[Any, str] = {
        "the copy is made": (database, "_with_epoch"),
        "the old one gets its name": (database, "_link"),
        "the new one is written": (disk, "write"),
        "it takes its place": (database, "_take_place"),
        "after": (units, "restart"),
    }[moment]
    own = getattr(*cut)

    def failing(*arguments: object, **named: object) -> object:
        if cut[1] != "write" or str(arguments[0]).endswith(".ready"):
            raise KilledError
        return own(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(*cut, failing)
        with pytest.raises(KilledError):
            activation.activate(first, Told(), goes_back=True)
    assert content() in [(2, 9, ["since"]), (1, 9, ["before"])]
    activation.activate(first, Told(), goes_back=True)
    assert content() == (1, 9, ["before"])
    assert Path(f"{database.path()}.replaced").is_file()


def test_a_database_that_is_gone_comes_back_from_its_copy(upgraded: FakeSystemd) -> None:
    """A rollback does not start the old release on an empty database, which no hive would follow."""
    first = staged("r1").id
    activation.activate(staged("r2").id, Told())
    migrate(schema=2, epoch=9, key="since")
    database.path().rename(f"{database.path()}.replaced")
    activation.activate(first, Told(), goes_back=True)
    assert content() == (1, 9, ["before"])


def test_an_upgrade_after_a_change_of_files_that_was_cut_off_has_its_copy(
    upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cut-off activation noted does not stand for the copy that only another release needs."""
    edited = staged("r1", {"more.yaml": "edited"}).id
    with monkeypatch.context() as patch:
        cut_off(edited, patch)
    r2_migrates(upgraded, monkeypatch)
    upgraded.bad.add("r2")
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r2").id, Told())
    assert content() == (1, 6, ["before"])


def test_a_copy_that_was_made_is_not_made_again(upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after migrating, then again over other files: the third try still has what was there at first."""
    second, edited = staged("r2").id, staged("r1", {"more.yaml": "x"}).id
    with monkeypatch.context() as patch:
        r2_migrates(upgraded, patch, kill=True)
        with pytest.raises(KilledError):
            activation.activate(second, Told())
    with monkeypatch.context() as patch:
        cut_off(edited, patch)
    r2_migrates(upgraded, monkeypatch)
    upgraded.bad.add("r2")
    with pytest.raises(ActivationError, match="r1 is in force again"):
        activation.activate(second, Told())
    assert content() == (1, 6, ["before"])


def test_the_release_before_gets_its_database_after_a_kill(
    upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deployed again, because the newer one was killed after migrating, the older one is not left with that."""
    first, second = staged("r1").id, staged("r2").id
    with monkeypatch.context() as patch:
        r2_migrates(upgraded, patch, kill=True)
        with pytest.raises(KilledError):
            activation.activate(second, Told())
    upgraded.ran.clear()
    r2_migrates(upgraded, monkeypatch)
    with pytest.raises(ActivationError, match="r1 is in force again"):
        activation.activate(first, Told())
    assert content() == (1, 6, ["before"])


def test_an_epoch_that_cannot_be_raised_ends_it(upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hives would refuse a queen who is behind them, so that nothing is put in place then."""
    copy, own = places.DATABASES / "copy.db", database._opened
    assert database.snapshot(copy)
    migrate(schema=2, epoch=9, key="since")

    @contextlib.contextmanager
    def opened(file: Path) -> Iterator[sqlite3.Connection]:
        with own(file) as db:
            if file.name.startswith(".copy.db"):
                db.execute("PRAGMA query_only = 1")
            yield db

    monkeypatch.setattr(database, "_opened", opened)
    with pytest.raises(ActivationError, match="cannot prepare"):
        database.restore(copy)
    assert content() == (2, 9, ["since"])


def test_a_database_that_is_a_link_is_not_followed(upgraded: FakeSystemd, root: Path) -> None:
    """What the queen made a link to another file is refused, and that file stays as it is."""
    copy, other = places.DATABASES / "copy.db", root / "other.db"
    assert database.snapshot(copy)
    other.write_bytes(copy.read_bytes())
    before = other.read_bytes()
    database.path().unlink()
    database.path().symlink_to(other)
    with pytest.raises(ActivationError, match="is a link"):
        database.restore(copy)
    assert other.read_bytes() == before


def test_root_is_not_led_elsewhere_by_a_link(upgraded: FakeSystemd, root: Path) -> None:
    """A lock that the queen made a link to another file is refused, and that file stays whose it is."""
    copy, victim = places.DATABASES / "copy.db", root / "victim"
    assert database.snapshot(copy)
    victim.write_text("root's")
    (ports.QUEEN_STATE / database.LOCK).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        database.restore(copy)
    assert content() == (1, 5, ["before"])


def test_a_queen_who_keeps_her_lock_is_told(upgraded: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for one that was started again meanwhile."""
    copy = places.DATABASES / "copy.db"
    assert database.snapshot(copy)
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    with (ports.QUEEN_STATE / database.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ActivationError, match="although she was stopped"):
            database.restore(copy)
    assert content() == (1, 5, ["before"])


def test_what_is_no_database_is_refused(root: Path) -> None:
    """A file that is damaged is named before it replaces anything."""
    bad = root / "bad.db"
    bad.write_bytes(b"not a database" * 100)
    with pytest.raises(ActivationError, match="no database that can be used"):
        database.restore(bad)
