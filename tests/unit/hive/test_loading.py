"""Loads that go on, loads that have stopped, and hives that did not look."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.ledger import Ledger
from rbee_runtime.hive.loading import Load, Loads, Signs, look, verdict, watch
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.states import ExitReason

MIB = 1024**2


def load(*looks: tuple[float, Signs | None]) -> Load:
    found = None
    for at, signs in looks:
        found = watch(found, signs, now=at)
    assert found is not None
    return found


def during(seconds: int, sign: Callable[[int], Signs | None]) -> str:
    """Return the first verdict in so many seconds of looks, one every two; `sign` gives what is seen at a second."""
    found, said = None, ""
    for at in range(0, seconds + 1, 2):
        found = watch(found, sign(at), now=float(at))
        said = said or verdict(found)
    return said


STILL = Signs(loaded=0.4, memory=900 * MIB, cpu=30.0, faults=500)


@pytest.mark.parametrize(
    ("seconds", "sign", "said"),
    [
        (178, lambda _: STILL, ""),
        (180, lambda _: STILL, "its load has stopped: no progress"),
        (900, lambda at: replace(STILL, loaded=at / 2000), ""),
        (900, lambda at: replace(STILL, memory=at * MIB), ""),
        (900, lambda at: replace(STILL, faults=at), ""),
        (900, lambda at: replace(STILL, read=at * MIB), ""),
        (898, lambda at: replace(STILL, cpu=at * 1.0), ""),
        (900, lambda at: replace(STILL, cpu=at * 1.0), "used processor time and nothing else"),
        (180, lambda at: replace(STILL, cpu=at * 0.01), "its load has stopped: no progress"),
        (340, lambda at: replace(STILL, cpu=max(0.0, at - 170.0)), ""),
        (1798, lambda _: None, ""),
        (1800, lambda _: None, "not ready after loading for 1800 s"),
        (1800, lambda at: replace(STILL, memory=at * MIB), "not ready after loading for 1800 s"),
    ],
    ids=[
        "nothing moves, not long yet",
        "nothing moves",
        "it tells its share",
        "memory comes in",
        "a slow disk",
        "a slow disk, read into buffers",
        "compiles",
        "spins",
        "answers our probes only",
        "compiles after a long wait",
        "cannot be seen",
        "cannot be seen, for ever",
        "moves for ever",
    ],
)
def test_a_load_is_given_up_when_nothing_moves(seconds: int, sign: Callable[[int], Signs | None], said: str) -> None:
    """Any sign keeps a load going until the limit of all loads; processor time alone for 15 minutes, nothing for 3."""
    found = during(seconds, sign)
    assert said in found
    assert bool(found) is bool(said)


@pytest.mark.parametrize(
    ("size", "seconds", "given_up"),
    [(0, 1800, True), (2 * 10**9, 1800, True), (40 * 10**9, 3998, False), (40 * 10**9, 4000, True)],
)
def test_a_large_model_may_come_from_a_slow_disk(size: int, seconds: int, given_up: bool) -> None:
    """The limit of all loads is half an hour, or what reading the model takes at 10 MB/s."""
    found = load(*((float(at), replace(STILL, memory=at * 20 * MIB)) for at in range(0, seconds + 1, 2)))
    assert (verdict(found, size=size) == f"it was not ready after loading for {seconds} s") is given_up


def test_time_that_nobody_watched_does_not_count() -> None:
    """Ten minutes, and then an hour, between two looks bring a load no nearer to its limits than one look does."""
    found = load((0, STILL), (2, STILL), (602, STILL), (4202, STILL))
    assert (verdict(found), found.total <= 8.0, found.quiet <= 8.0) == ("", True, True)


def test_signs_are_read_from_all_processes_of_a_worker(tmp_path: Path) -> None:
    """Memory, processor time and major faults add up over a family; names with brackets and spaces do not disturb."""
    for pid in (7, 8):
        (tmp_path / str(pid)).mkdir()
        numbers = ["S", *map(str, range(4, 53))]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b (c) {' '.join(numbers)}\n")
    found = look([7, 8, 9], loaded=0.5, devices=100, proc=tmp_path)
    # Field n of proc(5) holds n here: 12 major faults, 14 to 17 processor time, 24 resident pages.
    assert found == Signs(loaded=0.5, memory=100 + 2 * 24 * 4096, cpu=2 * (14 + 15 + 16 + 17) / 100, faults=2 * 12)
    assert look([9], loaded=0.5, devices=100, proc=tmp_path) is None


@pytest.mark.parametrize(("since", "seen"), [(0.0, True), (0.22, True), (1.2, True), (1.3, False)])
def test_a_process_that_is_older_than_the_launch_is_a_strangers(tmp_path: Path, since: float, seen: bool) -> None:
    """A pid of another namespace may be anybody's here; what began 0.22 s after boot was not launched at 1.3 s."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (a) {' '.join(['S', *map(str, range(4, 53))])}\n")
    assert (look([7], loaded=0.5, devices=0, since=since, proc=tmp_path) is not None) is seen


def test_reads_count_where_the_kernel_tells_them() -> None:
    """Bytes by read calls come from a real process of ours, whose start lies after the machine's."""
    before = look([os.getpid()], loaded=0.0, devices=0)
    with Path("/dev/zero").open("rb", buffering=0) as endless:
        endless.read(3 * MIB)
    after = look([os.getpid()], loaded=0.0, devices=0)
    assert before is not None
    assert after is not None
    assert after.read - before.read >= 3 * MIB


@pytest.mark.parametrize(
    ("status", "record", "watched"),
    [
        (UnitStatus("w", Phase.RUNNING, pid=7), WorkerRecord(id="w"), True),
        (UnitStatus("w", Phase.STARTING), None, True),
        (UnitStatus("w", Phase.RUNNING, pid=7), WorkerRecord(id="w", ready_since=5.0), False),
        (
            UnitStatus("w", Phase.RUNNING, pid=7),
            WorkerRecord(id="w", stop_asked=5.0, stop_as=ExitReason.CRASHED),
            False,
        ),
        (UnitStatus("w", Phase.STOPPING, pid=7), WorkerRecord(id="w"), False),
        (UnitStatus("w", Phase.ENDED), WorkerRecord(id="w"), False),
    ],
    ids=["loads", "has no process yet", "is ready", "is being ended", "stops", "has ended"],
)
def test_only_loading_workers_are_watched(
    tmp_path: Path, status: UnitStatus, record: WorkerRecord | None, watched: bool
) -> None:
    """What is ready, ends or has ended is forgotten, so that its next load begins anew."""
    loads = Loads(lambda: 10.0, proc=tmp_path)
    loads.held = {"w": Load(at=8.0, total=50.0)}
    loads.tick({"w": status}, {"w": record} if record else {}, health={}, scan=Scan(), ledger=Ledger())
    assert [found.total for found in loads.held.values()] == ([52.0] if watched else [])


def test_what_answers_ready_has_loaded(tmp_path: Path) -> None:
    """A worker that is kept out of rotation by a lost device moves no more, and is not given up for that."""
    loads, heard = Loads(lambda: 10.0, proc=tmp_path), Health(since=1.0, ready=True)
    loads.held = {"w": Load(at=8.0, quiet=500.0)}
    runs = {"w": UnitStatus("w", Phase.RUNNING, pid=7)}
    loads.tick(runs, {"w": WorkerRecord(id="w")}, health={"w": heard}, scan=Scan(), ledger=Ledger())
    assert loads.held == {}
