"""Loads of models that nobody has loaded: one job per model, whoever asks, until it serves or fails.

placing   no worker of the model is anywhere; it fails with the hives' reasons
            at once    where none of them can pass by itself
            300 s      after the last time that somebody asked
fetching  its files come; it fails after 300 s without a byte
loading   it fails 180 s + 20 s per GiB after the last thing that moved
ready     the job is over
failed    why is told for 15 s, twice as long for each further failure in a row up to 300 s, without another try; after
          that the next request is one

placing → fetching, loading, ready, failed      fetching, loading → each other, placing, ready, failed

A client that leaves changes nothing. A job is in the database from before anything is done for it until it is over; a
queen that starts goes on with it, and its deadlines begin anew. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rbee_runtime.protocol import FetchReport
from rbee_runtime.queen import outlook
from rbee_runtime.queen.outlook import Standing
from rbee_runtime.queen.records import Cause, LoadRecord
from rbee_runtime.states import FetchState, Observed

PLACE_SECONDS = 300.0
FETCH_SECONDS = 300.0
LOAD_SECONDS, LOAD_SECONDS_PER_GIB = 180.0, 20.0
MEMO_SECONDS, MEMO_MOST = 15.0, 300.0
MEMORY_STEP = 16 * 1024**2
GIB = 1024**3


class Phase(StrEnum):
    """How far a load is; see TRANSITIONS."""

    PLACING = "placing"
    FETCHING = "fetching"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


_UNDER_WAY = frozenset({Phase.PLACING, Phase.FETCHING, Phase.LOADING, Phase.READY, Phase.FAILED})
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PLACING: _UNDER_WAY - {Phase.PLACING},
    Phase.FETCHING: _UNDER_WAY - {Phase.FETCHING},
    Phase.LOADING: _UNDER_WAY - {Phase.LOADING},
    Phase.READY: frozenset(),
    Phase.FAILED: frozenset(),
}


Mark = tuple[object, ...]


@dataclass(frozen=True)
class Job:
    """One load. `created` is unix seconds; `begun`, `moved` (its last progress), `asked` and `until` are monotonic.

    `until` is when a failed one is forgotten, `placeless` that it failed for want of a place, `mark` what its progress
    was, `failures` how many came before in a row.
    """

    model: str
    content: str
    cause: Cause
    created: float
    begun: float
    moved: float
    asked: float
    phase: Phase = Phase.PLACING
    mark: Mark = ()
    detail: str = ""
    failures: int = 0
    until: float = 0.0
    placeless: bool = False

    @property
    def open(self) -> bool:
        """Say whether it goes on."""
        return self.phase not in {Phase.READY, Phase.FAILED}

    @property
    def record(self) -> LoadRecord:
        """Return what is remembered of it."""
        return LoadRecord(self.model, self.content, self.cause, self.created, self.failures)


@dataclass(frozen=True)
class Sight:
    """What is seen of a load: the model's workers as their hives tell, how its files come, bytes of its files.

    `hopeless` is why none of its workers will serve, `lacking` the hives' reasons against another worker, `hopeful`
    that one of those passes by itself.
    """

    standings: Sequence[Standing] = ()
    fetches: Sequence[FetchReport] = ()
    size: int = 0
    ready: bool = False
    hopeless: str = ""
    lacking: Sequence[str] = ()
    hopeful: bool = False


def sight(model: str, standings: Sequence[Standing], *, size: int, lacking: Sequence[str], hopeful: bool) -> Sight:
    """Return what is seen of the load of a model; its files count where its workers are."""
    hives = {each.entry.hive: each.heard for each in standings if each.heard is not None}
    fetches = (fetch for heard in hives.values() for fetch in heard.fetches if fetch.name == model)
    return Sight(
        standings=standings,
        fetches=tuple(fetch for fetch in fetches if fetch.state is not FetchState.READY),
        size=size,
        ready=is_served(standings),
        hopeless=outlook.hopeless(standings),
        lacking=lacking,
        hopeful=hopeful,
    )


def is_served(standings: Sequence[Standing]) -> bool:
    """Say whether a model has a worker that serves."""
    return any(each.entry.serves for each in standings)


def begun(record: LoadRecord, *, now: float) -> Job:
    """Return a job that begins, or goes on in another queen with new deadlines."""
    model, content, cause, created = record.model, record.content, record.cause, record.created
    return Job(model, content, cause, created, begun=now, moved=now, asked=now, failures=record.failures)


def asked(job: Job, *, now: float) -> Job:
    """Return the job once somebody else wants the same."""
    return replace(job, asked=now)


def advanced(job: Job, sight: Sight, *, now: float) -> Job:
    """Return the job after one more look at it; a failed one stays as it is."""
    if not job.open:
        return job
    if sight.ready:
        return moved(job, Phase.READY)
    if sight.hopeless:
        return failed(job, sight.hopeless, now=now)
    phase, mark = _phase(sight), _mark(sight)
    progressed = phase is not job.phase or mark != job.mark
    job = replace(moved(job, phase), mark=mark, moved=now if progressed else job.moved, detail=_told(phase, sight))
    problem = _overdue(job, sight, now)
    return failed(job, problem, now=now, placeless=job.phase is Phase.PLACING) if problem else job


def moved(job: Job, phase: Phase) -> Job:
    """Return the job in another phase that the table allows."""
    if phase is job.phase:
        return job
    if phase not in TRANSITIONS[job.phase]:
        raise ValueError(f"the load of {job.model} cannot go from {job.phase} to {phase}")
    return replace(job, phase=phase)


def failed(job: Job, why: str, *, now: float, placeless: bool = False) -> Job:
    """Return the job as one that failed, to be told of for a while."""
    memo = min(MEMO_SECONDS * 2**job.failures, MEMO_MOST)
    ended = moved(job, Phase.FAILED)
    return replace(ended, detail=why, failures=job.failures + 1, until=now + memo, placeless=placeless)


def load_limit(size: int) -> float:
    """Return how many seconds a load of so many bytes may be without progress."""
    return LOAD_SECONDS + LOAD_SECONDS_PER_GIB * size / GIB


def _phase(sight: Sight) -> Phase:
    states = [report.state for each in sight.standings if (report := each.report) is not None]
    if not sight.standings:
        return Phase.PLACING
    return Phase.FETCHING if states and all(state is Observed.FETCHING for state in states) else Phase.LOADING


def _mark(sight: Sight) -> Mark:
    """Return what is another one whenever something moved; a worker that only starts over moves nothing."""
    reports = (report for each in sight.standings if (report := each.report) is not None and not report.restarts)
    workers = [
        (report.id, report.detail, sum(report.memory.values()) // MEMORY_STEP)
        if report.state is Observed.STARTING
        else (report.id,)
        for report in reports
    ]
    return (*workers, *((fetch.state, fetch.done) for fetch in sight.fetches))


def _told(phase: Phase, sight: Sight) -> str:
    if phase is Phase.PLACING:
        return "; ".join(sight.lacking)
    return next((each.said for each in sight.standings if each.said), "")


def _overdue(job: Job, sight: Sight, now: float) -> str:
    quiet = now - job.moved
    if job.phase is Phase.PLACING:
        why = "; ".join(sight.lacking)
        if sight.lacking and not sight.hopeful:
            return f"it fits nowhere ({why})"
        waited = now - max(job.asked, job.begun)
        return f"no room was found for it in {PLACE_SECONDS:g} s ({why})" if waited >= PLACE_SECONDS else ""
    if job.phase is Phase.FETCHING:
        limit = FETCH_SECONDS + (load_limit(sight.size) if _verifies(sight.fetches) else 0.0)
        return f"its files did not come: nothing for {limit:g} s ({job.detail})" if quiet >= limit else ""
    limit = load_limit(sight.size)
    return f"it was not ready {limit:.0f} s after its last progress ({job.detail})" if quiet >= limit else ""


def _verifies(fetches: Iterable[FetchReport]) -> bool:
    return any(fetch.state is FetchState.VERIFYING for fetch in fetches)
