"""The owner of what models are to have: targets, loads, moves. Decides by `scaling` and `loads`, remembers, logs."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rbee_runtime import logs
from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.queen import loads, scaling
from rbee_runtime.queen.eviction import STARVED_SECONDS
from rbee_runtime.queen.fleet import content
from rbee_runtime.queen.history import EventKind, Record, unrecorded
from rbee_runtime.queen.loads import Job, Phase, Sight
from rbee_runtime.queen.placement import Plan
from rbee_runtime.queen.records import Assignment, Cause, LoadRecord
from rbee_runtime.queen.scaling import Scale, Traffic
from rbee_runtime.queen.store import Store

Remember = Callable[[Callable[[], None]], None]


@dataclass(frozen=True)
class Wishes:
    """What one plan is told; see `Situation`."""

    wanted: Mapping[str, int] = field(default_factory=dict)
    queue: tuple[str, ...] = ()
    starved: frozenset[str] = frozenset()
    moving: Mapping[str, str] = field(default_factory=dict)


class Lifecycle:
    """Everything here changes in plain calls on the controller's event loop."""

    def __init__(
        self,
        store: Store,
        remember: Remember,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        record: Record = unrecorded,
    ) -> None:
        self.moving: dict[str, str] = {}
        self._scales: dict[str, Scale] = {}
        self._store = store
        self._remember = remember
        self._clock = clock
        self._wall = wall
        self._record = record
        self.jobs = {record.model: loads.begun(record, now=clock()) for record in store.loads()}

    def want(self, model: FleetModel, cause: Cause) -> bool:
        """See to it that a model without a ready worker is loaded; say whether that is a new load.

        What the inventory keeps up needs none. A failure is not tried again while it is told, but by an operator.
        """
        now, known, told = self._clock(), self.jobs.get(model.name), self.told(model.name)
        if is_kept_up(model):
            return False
        if told is not None and (told.open or cause is Cause.REQUEST):
            self.jobs[model.name] = loads.asked(told, now=now)
            return False
        job = self.jobs[model.name] = self._new(model, cause, failures=known.failures if known is not None else 0)
        self._remember(lambda: self._store.put_load(job.record))
        self._aim(model, now)
        logs.info("load begins", model=model.name, cause=cause)
        self._tell(job)
        return True

    def unload(self, model: FleetModel, *, waiting: int) -> None:
        """Let every worker of a model go and end its load; those with requests finish them, who waits is told."""
        job = self.jobs.get(model.name)
        if waiting and (job is None or not job.open):
            job = self._new(model, Cause.OPERATOR)
        if job is not None and job.open:
            self._end(loads.failed(job, "an operator unloaded it", now=self._clock()))
        scale = self._scale(model, 0)
        self._scales[model.name] = scaling.without(scale, scale.replicas)
        logs.info("unloaded", model=model.name)

    def told(self, model: str) -> Job | None:
        """Return the load of a model that goes on, or the last one while its failure is told."""
        job = self.jobs.get(model)
        return job if job is not None and (job.open or self._clock() < job.until) else None

    def failure(self, model: str) -> str:
        """Return why the last load of a model failed, as long as that is told."""
        job = self.told(model)
        return job.detail if job is not None and not job.open else ""

    def hive_came(self) -> None:
        """Tell no longer that models found no place: there may be one now."""
        for job in list(self.jobs.values()):
            if job.placeless:
                self.jobs[job.model] = replace(job, until=self._clock())

    def retry_after(self, model: str) -> float:
        """Return for how many seconds the failure of a model's last load is still told, 0 if none is."""
        job = self.jobs.get(model)
        return max(0.0, job.until - self._clock()) if job is not None else 0.0

    def look(self, models: Iterable[FleetModel], seen: Callable[[str], tuple[int, Traffic]]) -> None:
        """Follow what models see; `seen` says of each how many workers it has and its traffic."""
        now = self._clock()
        for model in models:
            if model.each_host:
                continue
            workers, traffic = seen(model.name)
            scale = self._scales.get(model.name) or self._first(model, workers, now)
            after = scaling.advanced(scale, model, traffic, now=now)
            if traffic.loading and not after.replicas:
                # Its worker made room for another model in the very moment in which somebody asked.
                after = replace(after, replicas=1)
            if after.replicas != scale.replicas:
                logs.info("scaled", model=model.name, before=scale.replicas, wanted=after.replicas)
                said = {"change": "scaled", "before": scale.replicas, "wanted": after.replicas}
                self._record(EventKind.MODEL_STATE, model.name, said)
            self._scales[model.name] = after

    def follow(self, models: Mapping[str, FleetModel]) -> None:
        """Forget what models were to have that are not declared any more, or are on each host by now."""
        kept = {name for name, model in models.items() if not model.each_host}
        self._scales = {name: scale for name, scale in self._scales.items() if name in kept}

    def wishes(self, waiting: Callable[[str], int]) -> Wishes:
        """Return what the next plan is to carry out."""
        now = self._clock()
        queue = sorted((job for job in self.jobs.values() if job.open), key=lambda job: (job.created, job.model))
        starved = (
            job.model
            for job in queue
            if job.phase is Phase.PLACING
            and now - job.begun >= STARVED_SECONDS
            and (waiting(job.model) or job.cause is Cause.OPERATOR)
        )
        wanted = {name: scale.replicas for name, scale in self._scales.items()}
        return Wishes(wanted, tuple(job.model for job in queue), frozenset(starved), dict(self.moving))

    def planned(self, before: Mapping[str, Assignment], outcome: Plan) -> None:
        """Note what a plan does."""
        for worker, model in outcome.evicted.items():
            entry = before[worker]
            logs.info("evicted", worker=worker, hive=entry.hive, model=entry.spec.model, room_for=model)
            said = {"change": "evicted", "worker": worker, "hive": entry.hive, "room_for": model}
            self._record(EventKind.MODEL_STATE, entry.spec.model, said)
            self._scales[entry.spec.model] = scaling.without(self._scales[entry.spec.model])
        for worker in outcome.dropped:
            self.moving.pop(worker, None)

    def judge(self, models: Mapping[str, FleetModel], sight: Callable[[str], Sight]) -> bool:
        """Look at every load that goes on; say whether one failed, which releases its workers with the next plan.

        One of a model that is declared otherwise by now is forgotten, and so is its failure.
        """
        failed = False
        for job in list(self.jobs.values()):
            model = models.get(job.model)
            if model is None or content(model) != job.content or is_kept_up(model):
                self._forget(job)
                continue
            if not job.open:
                continue
            after = self.jobs[job.model] = loads.advanced(job, sight(job.model), now=self._clock())
            if after.open and after.phase is not job.phase:
                self._tell(after)
            if after.phase is Phase.READY:
                logs.info("load done", model=job.model, seconds=self._clock() - job.begun)
                self._tell(after)
                self._forget(job)
            elif after.phase is Phase.FAILED:
                failed = True
                self._end(after)
                self._scales[job.model] = scaling.without(self._scale(model, 0), model.replicas_max)
        return failed

    def move(self, entry: Assignment, hive: str) -> None:
        """Have a worker replaced on another hive ("": any other), and let it go once its replacement serves."""
        self.moving[entry.id] = hive
        logs.info("moving", worker=entry.id, hive=entry.hive, to=hive or "any other")
        said = {"change": "moving", "model": entry.spec.model, "hive": entry.hive, "to": hive}
        self._record(EventKind.PLACEMENT, entry.id, said)

    def _new(self, model: FleetModel, cause: Cause, failures: int = 0) -> Job:
        return loads.begun(LoadRecord(model.name, content(model), cause, self._wall(), failures), now=self._clock())

    def _first(self, model: FleetModel, workers: int, now: float) -> Scale:
        """Return the first target of a model: what it has, and one worker where a load goes on."""
        job = self.jobs.get(model.name)
        return scaling.started(model, max(workers, 1) if job is not None and job.open else workers, now=now)

    def _scale(self, model: FleetModel, workers: int) -> Scale:
        return self._scales.get(model.name) or self._first(model, workers, self._clock())

    def _aim(self, model: FleetModel, now: float) -> None:
        replicas = max(1, self._scale(model, 0).replicas)
        self._scales[model.name] = Scale(replicas, used=now)

    def _end(self, job: Job) -> None:
        self.jobs[job.model] = job
        self._remember(lambda: self._store.drop_load(job.model))
        logs.warning("load failed", model=job.model, why=job.detail, again_in=job.until - self._clock())
        self._tell(job)
        self._record(EventKind.MODEL_STATE, job.model, {"change": "failed", "detail": job.detail})

    def _tell(self, job: Job) -> None:
        seconds = round(self._clock() - job.begun, 3)
        said = {"phase": job.phase.value, "cause": job.cause.value, "detail": job.detail, "seconds": seconds}
        self._record(EventKind.LOAD_STATE, job.model, said)

    def _forget(self, job: Job) -> None:
        del self.jobs[job.model]
        self._remember(lambda: self._store.drop_load(job.model))


def is_kept_up(model: FleetModel) -> bool:
    """Say whether the inventory itself wants workers of a model."""
    return model.each_host or model.replicas_min > 0


def check_unload(model: FleetModel) -> None:
    """Raise RequestError for a model that the next plan would load again."""
    if is_kept_up(model):
        what = "one on each host" if model.each_host else f"at least {model.replicas_min}"
        message = f"the inventory wants workers of {model.name} ({what}); write replicas=(0, …) there for one on demand"
        raise RequestError(409, message, kind="conflict_error", code="model_kept_up")
