"""A backup in place of the queen's database: she runs on it, or on what she had."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_deploy.activator import activation, database, disk, places, pruning, restoring
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.units import ActivationError
from tests.unit.deploy.activator.conftest import FakeSystemd, staged
from tests.unit.deploy.activator.test_database import content, queen_db


@pytest.fixture
def backup(systemd: FakeSystemd) -> bytes:
    """Give a queen's host with a database, and a backup of an earlier one."""
    activation.activate(staged("r1").id, Told())
    queen_db(schema=1, epoch=3, key="backup")
    saved = database.path().read_bytes()
    queen_db(schema=1, epoch=5, key="now")
    return saved


def test_the_queen_runs_on_the_backup(backup: bytes, systemd: FakeSystemd) -> None:
    """Its keys are hers, the epoch is not lower, what she had is kept, and she was started anew once."""
    systemd.restarts.clear()
    kept = restoring.restore(backup, 100)
    assert content() == (1, 5, ["backup"])
    assert kept == places.DATABASES / "before-restore-100.db"
    assert (kept.is_file(), systemd.restarts) == (True, ["rbee-queen.service"])


def test_keys_that_end_or_come_back_are_named(backup: bytes) -> None:
    """A key made since the backup is gone, one revoked since is valid again; one revoked in both is not named."""
    queen_db(schema=1, epoch=5, key="now", revoked="backup")
    kept = restoring.restore(backup, 100)
    assert kept is not None
    assert restoring.other_keys(kept) == [
        {"id": "backup", "name": "of backup", "became": "valid again"},
        {"id": "now", "name": "of now", "became": "gone"},
    ]
    assert restoring.other_keys(database.path()) == []


def test_a_queen_who_begins_anew_has_no_keys_come_and_gone(backup: bytes) -> None:
    """Of what the database before never knew, whether valid or revoked in the backup, nothing is said."""
    queen_db(schema=1, epoch=3, key="old", revoked="ended")
    saved = database.path().read_bytes()
    queen_db(schema=1, epoch=1, key="old")
    kept = restoring.restore(saved, 100)
    assert kept is not None
    assert restoring.other_keys(kept) == []


def test_where_no_database_was_none_is_kept(backup: bytes) -> None:
    """One that was moved away because it could not be copied is not called kept, and no key is named."""
    database.path().unlink()
    assert restoring.restore(backup, 100) is None
    assert content()[2] == ["backup"]
    assert restoring.other_keys(places.DATABASES / "before-restore-100.db") == []


def garbage() -> None:
    """Leave no database at all where hers was."""
    database.path().write_bytes(b"not a database" * 100)


def broken_page() -> None:
    """Damage what is in the table of keys, and nothing that says where it is."""
    with sqlite3.connect(database.path()) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'keys'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with database.path().open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("damage", [garbage, broken_page])
def test_a_damaged_database_is_replaced_and_kept_as_it_is(
    backup: bytes, systemd: FakeSystemd, damage: Callable[[], None]
) -> None:
    """That is what a backup is for; no key can be named."""
    damage()
    damaged, epoch = database.path().read_bytes(), 3 if damage is garbage else 5
    systemd.restarts.clear()
    kept = restoring.restore(backup, 100)
    assert content() == (1, epoch, ["backup"])
    assert kept is not None
    # SQLite counts a copy in its header.
    assert (kept.read_bytes()[-1000:], restoring.other_keys(kept)) == (damaged[-1000:], [])
    assert systemd.restarts == ["rbee-queen.service"]


@pytest.mark.parametrize("damage", [garbage, broken_page])
def test_a_damaged_database_is_not_put_back(
    backup: bytes, monkeypatch: pytest.MonkeyPatch, damage: Callable[[], None]
) -> None:
    """Nobody could run on it; where the backup does not do, the sentence says so, and she was started once more."""
    damage()
    damaged = database.path().read_bytes()
    restarts: list[list[str]] = []

    def restart(_role: object) -> None:
        restarts.append(content()[2])
        raise ActivationError("rbee-queen.service did not become ready")

    monkeypatch.setattr("rbee_deploy.activator.units.restart", restart)
    with pytest.raises(
        ActivationError, match="did not become ready; what she had before is damaged and was not put back"
    ):
        restoring.restore(backup, 100)
    assert restarts == [["backup"], ["backup"]]
    assert (places.DATABASES / "before-restore-100.db").read_bytes()[-1000:] == damaged[-1000:]


def test_what_cannot_be_copied_for_another_reason_stops_the_restore(
    backup: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a lock passes; hers is whole."""

    def full(_to: Path) -> bool:
        raise ActivationError("cannot copy: database or disk is full") from sqlite3.OperationalError("full")

    monkeypatch.setattr(database, "snapshot", full)
    with pytest.raises(ActivationError, match="disk is full"):
        restoring.restore(backup, 100)
    assert content() == (1, 5, ["now"])


def test_a_full_disk_leaves_what_she_had(backup: bytes, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the backup cannot be written in place of hers, she runs on hers."""
    write, full = disk.write, [True]

    def writing(path: Path, *arguments: object, **named: object) -> None:
        if path.name.endswith(".ready") and full:
            full.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(disk, "write", writing)
    earlier = Path(f"{database.path()}.replaced")
    earlier.write_text("of an earlier restore")
    systemd.restarts.clear()
    with pytest.raises(ActivationError, match=r"runs on what she had before, for this failed: .*No space"):
        restoring.restore(backup, 100)
    assert content() == (1, 5, ["now"])
    assert systemd.restarts == ["rbee-queen.service"]


def test_a_queen_who_does_not_stop_in_time_is_started_again(
    backup: bytes, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stop itself fails, she is not left half stopped."""

    def systemctl(verb: str, *words: str, seconds: float = 0.0) -> str:
        own = systemd.systemctl(verb, *words, seconds=seconds)
        if verb == "stop":
            raise ActivationError("systemctl stop took longer than 120 s")
        return own

    monkeypatch.setattr("rbee_deploy.activator.units.systemctl", systemctl)
    systemd.restarts.clear()
    with pytest.raises(ActivationError, match="took longer"):
        restoring.restore(backup, 100)
    assert (systemd.restarts, content()) == (["rbee-queen.service"], (1, 5, ["now"]))


def test_a_backup_that_she_does_not_run_on_is_taken_away(backup: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence is that of her failure, and she runs on what she had."""
    restarts: list[list[str]] = []

    def restart(_role: object) -> None:
        restarts.append(content()[2])
        if len(restarts) == 1:
            raise ActivationError("rbee-queen.service did not become ready")

    monkeypatch.setattr("rbee_deploy.activator.units.restart", restart)
    with pytest.raises(ActivationError, match="did not become ready"):
        restoring.restore(backup, 100)
    assert restarts == [["backup"], ["now"]]


def test_what_restores_kept_outlives_deploys(backup: bytes) -> None:
    """The next deploys do not remove what was there before, but for the oldest of many."""
    for second in range(5):
        kept = restoring.restore(backup, second)
        assert kept is not None
        os.utime(kept, (second, second))
    activation.activate(staged("r2").id, Told())
    pruning.prune(keep=3, wanted=set())
    assert sorted(path.name for path in places.DATABASES.glob(restoring.KEPT)) == [
        f"before-restore-{second}.db" for second in (2, 3, 4)
    ]
