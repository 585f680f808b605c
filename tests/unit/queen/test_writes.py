"""What the controller decides, on its way to a slow or full disk."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.errors import StateError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.queen import writes as module
from rbee_runtime.queen.records import Assignment, HiveRecord, Scope
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.writes import Writes
from tests.unit.hive.waiting import until
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Clock, Fixture, fleet, model
from tests.unit.queen.test_sending import Hives, sending


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class Gate:
    """A write that takes as long as a test wants; `began` once it is on its way."""

    def __init__(self) -> None:
        self.began, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.opened.wait(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    # A thread that a failed test left behind would hold up the end of all tests.
    made.opened.set()


@asynccontextmanager
async def serving(writes: Writes) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(writes.run())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def hive(store: Store, name: str) -> Callable[[], None]:
    return lambda: store.put_hive(HiveRecord(name, "", drained=False))


def names(store: Store) -> list[str]:
    return [each.name for each in store.hives()]


def on_disk(path: Path) -> list[str]:
    """Return what another process would find."""
    with sqlite3.connect(path / "queen.db") as db:
        return [name for (name,) in db.execute("SELECT name FROM hives ORDER BY name")]


def full() -> None:
    """Fail as a disk without room does."""
    cause = sqlite3.OperationalError("database or disk is full")
    cause.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise cause


def test_before_a_queen_serves_a_write_is_done_at_once(store: Store) -> None:
    """Nobody waits for her yet, and what a start decides is not to be lost."""
    writes, told = Writes(store), list[str]()
    writes.put(hive(store, "a"))
    writes.after(lambda: told.append("a"))
    assert (names(store), told, writes.problem) == (["a"], ["a"], "")


async def test_a_slow_disk_holds_nobody_up(store: Store, gate: Gate, tmp_path: Path) -> None:
    """Writes return at once; who asks is told when the disk has them, all that waited meanwhile in one go."""
    writes, told = Writes(store), list[str]()
    async with serving(writes):
        writes.put(gate)
        await until(gate.began.is_set)
        writes.put(hive(store, "a"))
        writes.put(hive(store, "b"))
        writes.after(lambda: told.append("ab"))
        waits = asyncio.create_task(writes.settled())
        await asyncio.sleep(0.05)
        assert (waits.done(), told, on_disk(tmp_path)) == (False, [], [])
        gate.opened.set()
        await waits
        assert (told, on_disk(tmp_path)) == (["ab"], ["a", "b"])
        await asyncio.wait_for(writes.settled(), 1)


async def test_who_asks_waits_for_no_later_writes(store: Store, gate: Gate) -> None:
    """Others may go on deciding for ever."""
    writes = Writes(store)
    async with serving(writes):
        writes.put(hive(store, "a"))
        waits = asyncio.create_task(writes.settled())
        await asyncio.sleep(0)
        await until(lambda: "a" in names(store))
        writes.put(gate)
        await asyncio.wait_for(waits, 10)
        gate.opened.set()


async def test_a_queen_that_leaves_writes_what_is_left(store: Store, gate: Gate, tmp_path: Path) -> None:
    """In its order, behind what is on its way; later writes are done at once again."""
    writes = Writes(store)
    async with serving(writes) as task:
        writes.put(gate)
        await until(gate.began.is_set)
        writes.put(hive(store, "a"))
        task.cancel()
        threading.Timer(0.1, gate.opened.set).start()
        await asyncio.wait([task])
        writes.put(hive(store, "b"))
        assert on_disk(tmp_path) == ["a", "b"]


async def test_what_a_full_disk_refuses_is_written_later(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that was decided meanwhile, in its order, without anybody's doing; until then it is said."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    writes, disk = Writes(store), [full]
    async with serving(writes):
        writes.put(hive(store, "a"))
        writes.put(lambda: disk[0]() if disk else None)
        writes.put(lambda: store.put_hive(HiveRecord("a", "http://a", drained=True)))
        await writes.settled()
        assert "disk is full" in writes.problem
        assert on_disk(tmp_path) == []
        disk.clear()
        await until(lambda: not writes.problem)
        assert store.hives() == [HiveRecord("a", "http://a", drained=True)]


async def test_a_full_disk_makes_no_queen_grow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what cannot be written only so much is kept, and the newest of it."""
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    writes, disk = Writes(store), [full]
    for name in "abcde":
        writes.put(hive(store, name))
        writes.put(lambda: disk[0]() if disk else None)
    disk.clear()
    writes.put(hive(store, "f"))
    assert names(store)[-2:] == ["e", "f"]
    assert len(names(store)) < 5


async def test_much_that_was_refused_is_not_tried_with_each_new_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand hives something comes all the time, and each try is all of it; it is told to be lost to nobody."""
    monkeypatch.setattr(module, "FEW", 2)
    writes, tries = Writes(store), list[int]()

    def refused() -> None:
        tries.append(1)
        full()

    async with serving(writes):
        for number in range(6):
            writes.put(refused if number == 0 else hive(store, f"h{number}"))
            await writes.settled()
        assert (len(tries), len(writes._kept)) == (3, 6)
        assert "disk is full" in writes.problem


async def test_a_write_that_can_never_be_done_costs_no_other(store: Store, gate: Gate) -> None:
    """It is told and forgotten; those beside it are written."""
    writes = Writes(store)
    async with serving(writes):
        writes.put(gate)
        await until(gate.began.is_set)
        writes.put(hive(store, "a"))
        writes.put(lambda: store.put_hive(HiveRecord("bad", None, drained=False)))  # type: ignore[arg-type]
        writes.put(hive(store, "b"))
        gate.opened.set()
        await writes.settled()
        assert (names(store), "NOT NULL" in writes.problem) == (["a", "b"], True)
        writes.put(hive(store, "c"))
        await writes.settled()
        assert (names(store), writes.problem) == (["a", "b", "c"], "")


async def test_no_write_goes_ahead_of_an_earlier_one(store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a full disk refuses, beside one that can never be done, keeps all behind it."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    writes, disk = Writes(store), [full]

    def drained() -> None:
        if disk:
            disk[0]()
        store.put_hive(HiveRecord("a", "", drained=True))

    async with serving(writes):
        writes.put(gate)
        await until(gate.began.is_set)
        writes.put(lambda: store.put_hive(HiveRecord("bad", None, drained=False)))  # type: ignore[arg-type]
        writes.put(drained)
        writes.put(hive(store, "a"))
        gate.opened.set()
        await writes.settled()
        assert names(store) == []
        disk.clear()
        await until(lambda: not writes.problem)
        assert store.hives() == [HiveRecord("a", "", drained=False)]


async def test_a_lock_of_somebody_else_costs_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks at the database by hand holds it for a while: what was decided is written afterwards."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    store._db.execute("PRAGMA busy_timeout = 50")
    writes = Writes(store)
    async with serving(writes):
        with contextlib.closing(sqlite3.connect(tmp_path / "queen.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes.put(hive(store, "a"))
            writes.put(hive(store, "b"))
            await writes.settled()
            assert "locked" in writes.problem
            other.execute("ROLLBACK")
        await until(lambda: not writes.problem)
        assert on_disk(tmp_path) == ["a", "b"]


async def test_a_disk_that_hangs_is_told(store: Store, gate: Gate) -> None:
    """It refuses nothing, and nobody would know why hosts hear of nothing."""
    clock = Clock()
    writes = Writes(store, clock)
    async with serving(writes):
        writes.put(gate)
        await until(gate.began.is_set)
        assert writes.problem == ""
        clock.now += module.SLOW_SECONDS
        assert "has not taken a write for 5 s" in writes.problem
        gate.opened.set()
        await writes.settled()
        assert writes.problem == ""


@pytest.mark.parametrize("slots", [2**63, -(2**63) - 1])
def test_a_number_that_no_database_takes_is_told(store: Store, slots: int) -> None:
    """A hive that reports nonsense costs its own row, not the queen."""
    writes = Writes(store)
    spec = WorkerSpec(id="m-1", model="m", engine="fake")
    writes.put(lambda: store.change_assignments([Assignment(spec, "a", "c", slots=slots)], ()))
    assert "too large" in writes.problem
    writes.put(hive(store, "b"))
    assert (names(store), writes.problem) == (["b"], "")


def test_a_queen_that_has_left_writes_nothing(store: Store) -> None:
    """What comes after the end is told and forgotten: the state is the next queen's already."""
    writes = Writes(store)
    store.close()
    writes.put(hive(store, "a"))
    assert ("closed" in writes.problem, writes._kept, writes._tried) == (True, [], 1)
    with pytest.raises(StateError, match="closed"):
        store.put_meta("a", "b")


async def test_a_fault_in_our_own_code_ends_the_queen(store: Store) -> None:
    """Systemd starts her again from what is on the disk, instead of a queen that writes nothing any more."""
    writes = Writes(store)
    async with serving(writes) as task:
        writes.put(lambda: setattr(store, "nothing", int("nothing")))
        with pytest.raises(ValueError, match="nothing"):
            await asyncio.wait_for(task, 10)


async def test_another_thread_waits_for_its_turn(store: Store, gate: Gate) -> None:
    """Keys and usage are written by the thread that serves: never within somebody else's transaction."""
    writes = Writes(store)
    async with serving(writes):
        writes.put(gate)
        writes.put(lambda: full() if not gate.opened.is_set() else None)
        await until(gate.began.is_set)
        beside = asyncio.create_task(asyncio.to_thread(store.put_meta, "mine", "1"))
        await asyncio.sleep(0.05)
        assert not beside.done()
        gate.opened.set()
        await beside
        assert store.meta("mine") == "1"


def test_a_state_that_takes_no_writes_keeps_none(store: Store) -> None:
    """A copy in memory stays one until a restart: what is decided is only said to be lost with it."""
    store.problem = "read only"
    writes = Writes(store)
    writes.put(hive(store, "a"))
    assert (writes.problem, writes._kept) == ("read only", [])
    with pytest.raises(StateError), store.together(durable=True):
        pass


async def test_no_hive_hears_what_is_not_written(
    queen: Callable[[FleetFile], Fixture], monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """Its document goes out once all that led to it is on the disk: a queen that starts anew knows it, too."""
    q, hives = queen(fleet(model(each_host=True), hives=("a",))), Hives()
    async with serving(q.writes), sending(q, hives, monkeypatch):
        q.writes.put(gate)
        q.controller.heartbeat(q.report("a"))
        await until(gate.began.is_set)
        await asyncio.sleep(0.1)
        assert (hives.took, len(q.workers("a"))) == ([], 1)
        gate.opened.set()
        await until(lambda: hives.took)
        assert [entry.id for entry in q.store.assignments()] == q.workers("a")


async def test_no_operator_is_told_what_is_not_written(queen: Callable[[FleetFile], Fixture], gate: Gate) -> None:
    """A change is answered once it is on the disk; reads and other clients are answered meanwhile."""
    q = queen(fleet(model(), hives=("a",)))
    q.controller.heartbeat(q.report("a"))
    headers = {"authorization": f"Bearer {q.keys.create('admin', list(Scope), ('*',))[1]}"}
    async with serving(q.writes), endpoint(q) as client:
        q.writes.put(gate)
        await until(gate.began.is_set)
        draining = asyncio.create_task(client.post("/api/v1/hives/a/drain", headers=headers))
        await until(lambda: q.controller.membership.members["a"].record.drained)
        (seen,) = (await client.get("/api/v1/hives", headers=headers)).json()
        assert (seen["drained"], draining.done()) == (True, False)
        gate.opened.set()
        assert (await draining).status_code == 200
        assert [hive.drained for hive in q.store.hives()] == [True]
