"""What keys use is counted once, written soon, and outlives the queen that counted it."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from rbee_runtime import durable
from rbee_runtime.errors import RequestError, StateError
from rbee_runtime.queen import usage
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.records import Scope, UsageRow
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.usage import KEEP_DAYS, Usage
from tests.unit.queen.states import Clock

FIRST, LAST = date(2026, 11, 1), date(2026, 12, 31)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
DAY = 86_400


@dataclass
class Queen:
    """One life of a queen, as far as she counts."""

    directory: Path
    clock: Clock
    epoch: int = 1
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.directory)
        self.keys = Keys(self.store, now=self.clock)
        self.usage = Usage(self.store, self.keys, self.directory, self.epoch, now=self.clock)

    def count(self, key: str = "k", model: str = "m", prompt: int = 10, answer: int = 5, **what: bool) -> None:
        self.usage.count(key, model, (prompt, answer), **{"request": True, "error": False, "estimated": False, **what})

    def rows(self, **which: str) -> list[UsageRow]:
        return self.usage.report(since=FIRST, until=LAST, **which)


Maker = Callable[[int], Queen]


@pytest.fixture
def clock() -> Clock:
    """Give a clock that shows noon of some day."""
    return Clock(NOON)


@pytest.fixture
def queen(tmp_path: Path, clock: Clock) -> Iterator[Maker]:
    """Give a maker of queens over one directory; the one before has to have let go."""
    made: list[Queen] = []

    def make(epoch: int) -> Queen:
        made.append(Queen(tmp_path, clock, epoch))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


def test_counts_add_up_by_key_model_and_day(queen: Maker, clock: Clock) -> None:
    """Written or not, a row has the sum, and days end at midnight in UTC."""
    q = queen(1)
    q.count()
    q.usage.flush()
    q.count(error=True, estimated=True)
    q.count(model="n", request=False)
    clock.now += DAY / 2
    q.count("other")
    assert q.rows() == [
        UsageRow("2026-11-30", "k", "m", 2, 20, 10, 1, 1),
        UsageRow("2026-11-30", "k", "n", 0, 10, 5, 0, 0),
        UsageRow("2026-12-01", "other", "m", 1, 10, 5, 0, 0),
    ]
    assert [row.model for row in q.rows(key="k")] == ["m", "n"]
    assert [row.key for row in q.rows(model="m")] == ["k", "other"]
    assert q.usage.report(since=LAST, until=LAST) == []


def test_nothing_is_counted_twice_or_lost_over_a_restart(queen: Maker) -> None:
    """What was counted before, while and after one queen hands over to the next is all there once."""
    old = queen(1)
    old.count()
    old.usage.leave()
    old.store.close()
    new = queen(2)
    for number in (1, 2):
        old.count(answer=number)
        old.usage.tick()
    old.count("other")
    old.usage.leave()
    old.usage.leave()
    for _ in range(3):
        new.usage.tick()
    new.count()
    assert new.rows() == [UsageRow("2026-11-30", "k", "m", 4, 40, 13), UsageRow("2026-11-30", "other", "m", 1, 10, 5)]
    assert not list(new.directory.glob("usage-*"))
    assert new.store.meta("usage-1-1.json") is None


def test_a_file_is_added_once_though_its_removal_failed(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queen that is killed between adding what another left and removing the file finds that when she is back."""
    old = queen(1)
    old.usage.leave()
    old.store.close()
    old.count()
    old.usage.flush()
    new = queen(2)

    def refuse(_: Path) -> None:
        raise StateError("cannot remove it")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "remove", refuse)
        for _ in range(2):
            new.usage.tick()
    new.store.close()
    third = queen(3)
    third.usage.tick()
    assert third.rows() == [UsageRow("2026-11-30", "k", "m", 1, 10, 5)]
    assert not list(third.directory.glob("usage-*"))


def test_a_damaged_file_is_not_in_the_way(queen: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named in the log and gone, and what else was left is added."""
    q = queen(3)
    (q.directory / "usage-1-1.json").write_bytes(b"{")
    (q.directory / "usage-2-1.json").write_text('[{"day": "2026-11-30", "key": "k", "model": "m", "requests": 2}]')
    q.usage.tick()
    assert [row.requests for row in q.rows()] == [2]
    assert "file=usage-1-1.json" in capsys.readouterr().err
    assert not list(q.directory.glob("usage-*"))


def test_what_cannot_be_written_is_kept(queen: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """A database that somebody holds, or a full disk, costs nothing but a line in the log, and that once."""
    q = queen(1)
    q.store._db.execute("PRAGMA busy_timeout = 0")
    with sqlite3.connect(q.directory / "queen.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            q.count()
            q.usage.flush()
        assert q.rows() == [UsageRow("2026-11-30", "k", "m", 2, 20, 10)]
        other.execute("ROLLBACK")
    other.close()
    q.usage.flush()
    q.usage.flush()
    assert q.store.usage(key="", model="", since="", until="9", most=9) == q.rows()
    assert capsys.readouterr().err.count("usage not saved") == 1


def test_the_last_use_of_a_key_is_kept_by_the_minute(queen: Maker, clock: Clock) -> None:
    """It is known at once, written with the rest, and not forgotten by a queen that never saw the key used."""
    q = queen(1)
    record, key = q.keys.create("n", [Scope.INFER])
    assert q.keys.used(record.id) == 0
    clock.now += 61.5
    q.keys.authenticate(f"Bearer {key}")
    q.keys.authenticate(f"Bearer {key}x")
    assert q.keys.used(record.id) == NOON + 60
    q.usage.flush()
    assert (q.keys.unwritten(), q.store.all_keys()[0].used) == ({}, NOON + 60)
    q.store.close()
    again = queen(2)
    again.keys.create("admin", [Scope.ADMIN_WRITE])
    again.keys.revoke(record.id)
    assert again.store.all_keys()[0].used == NOON + 60


def test_old_days_are_forgotten(queen: Maker, clock: Clock) -> None:
    """Once a day, what is older than the time that is kept goes."""
    q = queen(1)
    q.count()
    q.usage.tick()
    clock.now += KEEP_DAYS * DAY
    q.count()
    q.usage.tick()
    assert len(q.store.usage(key="", model="", since="", until="9", most=9)) == 2
    clock.now += DAY
    q.usage.tick()
    assert [row.day for row in q.store.usage(key="", model="", since="", until="9", most=9)] == ["2028-01-04"]


def test_an_answer_is_bounded(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than one answer has are refused with what to ask for instead."""
    monkeypatch.setattr(usage, "MOST_ROWS", 2)
    q = queen(1)
    for key in ("a", "b", "c"):
        q.count(key)
    assert len(q.rows(key="a")) == 1
    with pytest.raises(RequestError, match="more than 2 rows; ask for fewer days") as refused:
        q.rows()
    assert refused.value.status == 400


def test_a_queen_that_left_reports_nothing(queen: Maker) -> None:
    """Her numbers are with the next one, who is asked a moment later."""
    q = queen(1)
    q.usage.leave()
    with pytest.raises(RequestError) as refused:
        q.rows()
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
