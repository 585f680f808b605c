"""One load from its first moment to its last, as pure cases."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime.protocol import FetchReport, Heartbeat, WorkerReport, WorkerSpec
from rbee_runtime.queen import loads
from rbee_runtime.queen.loads import (
    FETCH_SECONDS,
    LOAD_SECONDS,
    MEMO_MOST,
    MEMO_SECONDS,
    PLACE_SECONDS,
    TRANSITIONS,
    Job,
    Phase,
    Sight,
)
from rbee_runtime.queen.outlook import Standing
from rbee_runtime.queen.records import Assignment, Cause
from rbee_runtime.queen.store import Store
from rbee_runtime.states import FetchState, Observed
from tests.unit.queen.states import GIB

JOB = Job("m", "c", Cause.REQUEST, created=5.0, begun=0.0, moved=0.0, asked=0.0)
WORKER = WorkerReport(id="m-1", model="m", spec="", state=Observed.STARTING)


def standing(state: Observed, **fields: Any) -> Standing:
    report = msgspec.structs.replace(WORKER, state=state, **fields)
    heard = Heartbeat(hive="a", incarnation="", url="", epoch=0, revision=0, version="", workers=(report,))
    return Standing(Assignment(WorkerSpec(id="m-1", model="m", engine="fake"), "a", "c"), heard)


def fetching(done: int, state: FetchState = FetchState.FETCHING) -> Sight:
    return Sight((standing(Observed.FETCHING),), (FetchReport(name="m", state=state, done=done),))


def loading(size: int = 0, **fields: Any) -> Sight:
    return Sight((standing(Observed.STARTING, **fields),), size=size)


def lived(*looks: tuple[float, Sight], job: Job = JOB) -> Job:
    for now, sight in looks:
        job = loads.advanced(job, sight, now=now)
    return job


NOWHERE = Sight(lacking=("a: needs 9 GiB",))
ROOM = replace(NOWHERE, hopeful=True)


@pytest.mark.parametrize(
    ("looks", "phase", "why"),
    [
        ([(0, Sight())], Phase.PLACING, ""),
        ([(0, NOWHERE)], Phase.FAILED, "it fits nowhere (a: needs 9 GiB)"),
        ([(PLACE_SECONDS - 1, ROOM)], Phase.PLACING, "a: needs 9 GiB"),
        ([(PLACE_SECONDS, ROOM)], Phase.FAILED, "no room was found for it in 300 s (a: needs 9 GiB)"),
        ([(0, fetching(1)), (FETCH_SECONDS - 1, fetching(1))], Phase.FETCHING, "fetching"),
        ([(0, fetching(1)), (FETCH_SECONDS, fetching(1))], Phase.FAILED, "its files did not come: nothing for 300 s"),
        ([(0, fetching(1)), (250, fetching(2)), (500, fetching(2))], Phase.FETCHING, "fetching"),
        (
            [(0, fetching(9, FetchState.VERIFYING)), (400, fetching(9, FetchState.VERIFYING))],
            Phase.FETCHING,
            "fetching",
        ),
        ([(0, loading()), (LOAD_SECONDS - 1, loading())], Phase.LOADING, "starting"),
        ([(0, loading()), (LOAD_SECONDS, loading())], Phase.FAILED, "it was not ready 180 s after its last progress"),
        ([(0, loading(GIB)), (LOAD_SECONDS, loading(GIB))], Phase.LOADING, "starting"),
        ([(0, loading()), (170, loading(detail="9 %")), (340, loading(detail="9 %"))], Phase.LOADING, "9 %"),
        ([(0, loading()), (170, loading(memory={"g": GIB})), (340, loading(memory={"g": GIB}))], Phase.LOADING, ""),
        ([(0, fetching(1)), (290, loading()), (460, loading())], Phase.LOADING, "starting"),
        ([(0, loading()), (1, Sight())], Phase.PLACING, ""),
        ([(0, Sight(ready=True))], Phase.READY, ""),
        ([(0, replace(loading(), hopeless="it is bad"))], Phase.FAILED, "it is bad"),
    ],
)
def test_deadlines_follow_progress(looks: list[tuple[float, Sight]], phase: Phase, why: str) -> None:
    """Each phase has its own limit, counted from the last thing that moved, and its own sentence."""
    job = lived(*looks)
    assert (job.phase, job.detail[: len(why)]) == (phase, why)


def test_a_worker_that_starts_over_and_over_is_no_progress() -> None:
    """A crash and another start change its state, not its prospects."""
    looks = [(float(now), loading(restarts=now // 20, detail=f"{now} %")) for now in range(0, 260, 20)]
    assert lived(*looks).phase is Phase.FAILED


def test_whoever_asks_keeps_a_search_for_room_alive() -> None:
    """The limit is of a load that nobody asks for any more."""
    job = loads.asked(lived((0, ROOM)), now=200.0)
    assert lived((PLACE_SECONDS, ROOM), job=job).open
    assert not lived((PLACE_SECONDS + 200, ROOM), job=job).open


def test_failures_in_a_row_are_told_longer() -> None:
    """15 s, then twice as long each time, and never longer than 300 s."""
    untils = [loads.failed(replace(JOB, failures=count), "bad", now=0.0).until for count in (0, 1, 2, 30)]
    assert untils == [MEMO_SECONDS, 2 * MEMO_SECONDS, 4 * MEMO_SECONDS, MEMO_MOST]


def test_a_job_that_is_over_stays_over() -> None:
    """Its table has no way back, and looks change nothing."""
    failed = lived((0, NOWHERE))
    assert lived((1, loading()), job=failed) == failed
    assert [phase for phase, after in TRANSITIONS.items() if not after] == [Phase.READY, Phase.FAILED]
    with pytest.raises(ValueError, match="the load of m cannot go from failed to loading"):
        loads.moved(failed, Phase.LOADING)


def test_jobs_outlive_the_queen(tmp_path: Path) -> None:
    """One that goes on is found again by the next queen with new deadlines; one that is over is not."""
    store = Store(tmp_path)
    store.put_load(replace(JOB, failures=2).record)
    store.put_load(replace(JOB, model="n", created=4.0).record)
    store.drop_load("n")
    store.close()
    store = Store(tmp_path)
    again = [loads.begun(record, now=70.0) for record in store.loads()]
    assert again == [replace(JOB, failures=2, begun=70.0, moved=70.0, asked=70.0)]
    store.close()
