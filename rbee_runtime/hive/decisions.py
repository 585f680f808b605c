"""What to do about each worker: one pure function over what is wanted, on record, running and on disk.

running    wanted    identity  decision
no         no        -         forget
no         yes       -         fetch the model, wait for the next try, or start
yes        no        -         orphan: stop, or keep while there is no desired document at all
yes        yes       same      adopt: starting or ready by its probes; stop when it hangs
yes        yes       other     drifted: stop, then start anew; keep while the new model is not on disk
stopping   any       any       draining while requests are in flight, else stopping
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from rbee_runtime.hive import exits
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.protocol import Desired, WorkerSpec
from rbee_runtime.states import ExitReason, Observed

HUNG_SECONDS = 120.0
"""A worker that was ready and has been silent for so long is replaced; shorter pauses are waited out."""

LOAD_SECONDS = 1800.0
"""The largest models load for minutes from slow disks; nothing takes half an hour."""

STOP_REPEAT_SECONDS = 10.0
"""A stop that did not begin by then got lost between our record and the launcher."""


class Act(StrEnum):
    """What the supervisor does for a decision."""

    NONE = "none"
    START = "start"
    STOP = "stop"
    FORGET = "forget"


@dataclass(frozen=True)
class ModelState:
    """A model that the document names: `path` of its first file ("" for none); `basis` changes with its content.

    `stamp` changes when somebody writes its files again, even with the same content: a repaired file is worth a try.
    """

    ready: bool
    path: str = ""
    basis: str = ""
    stamp: str = ""
    said: str = ""


@dataclass(frozen=True)
class Decision:
    """State and action for one worker, and its record as it is from now on."""

    worker: str
    state: Observed
    record: WorkerRecord
    act: Act = Act.NONE
    said: str = ""


@dataclass(frozen=True)
class Scene:
    """Everything that decisions are made from, at one moment; maps are by worker id, `models` by model name."""

    now: float
    boot: str
    desired: Desired | None = None
    records: Mapping[str, WorkerRecord] = field(default_factory=dict)
    statuses: Mapping[str, UnitStatus] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    models: Mapping[str, ModelState] = field(default_factory=dict)
    engines: frozenset[str] = frozenset()
    credentials: str = ""


def basis(scene: Scene, model: str) -> str:
    """Return what besides the spec a worker was launched with: its model's content and our credentials."""
    state = scene.models.get(model)
    return f"{state.basis if state is not None else ''}/{scene.credentials}"


def decide(scene: Scene) -> list[Decision]:
    """Return one decision for every worker that is wanted, on record or running."""
    wanted = {spec.id: spec for spec in scene.desired.workers} if scene.desired is not None else {}
    ids = sorted({*wanted, *scene.records, *scene.statuses})
    return [_Case(scene, worker, wanted.get(worker)).decide() for worker in ids]


class _Case:
    """One worker of a scene."""

    def __init__(self, scene: Scene, worker: str, wanted: WorkerSpec | None) -> None:
        self.scene = scene
        self.worker = worker
        self.wanted = wanted
        self.record = _of_this_boot(scene.records.get(worker) or WorkerRecord(id=worker), scene.boot)
        self.status = scene.statuses.get(worker)
        self.health = scene.health.get(worker)

    def decide(self) -> Decision:
        if self.status is not None and self.status.alive:
            return self._running(self.status)
        return self._ended()

    def _is(self, state: Observed, said: str = "", act: Act = Act.NONE) -> Decision:
        record = self.record
        if act is Act.STOP:
            record = msgspec.structs.replace(record, stop_asked=self.scene.now)
        return Decision(self.worker, state, record, act, said)

    def _running(self, status: UnitStatus) -> Decision:
        if status.phase is Phase.STOPPING or self.record.stop_asked is not None:
            return self._stopping(status)
        if self.wanted is None:
            return self._orphan()
        drift = self._drift(self.wanted, status)
        if not drift:
            return self._adopted(status)
        model = self.scene.models.get(self.wanted.model)
        if model is None or not model.ready:
            return replace(self._adopted(status), said=f"{drift}; serves on until the new model is on disk")
        return self._is(Observed.DRIFTED, f"{drift}; it stops after its requests and starts anew", Act.STOP)

    def _stopping(self, status: UnitStatus) -> Decision:
        busy = self.health is not None and self.health.in_flight > 0
        decision = self._is(Observed.DRAINING if busy else Observed.STOPPING, "a stop was asked")
        asked = self.record.stop_asked
        if status.phase is not Phase.STOPPING and asked is not None:
            lost = self.scene.now - asked >= STOP_REPEAT_SECONDS
            return replace(decision, act=Act.STOP) if lost else decision
        return decision

    def _orphan(self) -> Decision:
        if self.scene.desired is None:
            return self._is(Observed.ORPHAN, "no desired document has come yet; it is kept as it is")
        return self._is(Observed.ORPHAN, "the queen does not want it any more; it stops after its requests", Act.STOP)

    def _drift(self, wanted: WorkerSpec, status: UnitStatus) -> str:
        said = self.health.spec if self.health is not None else ""
        running = said or status.spec or self.record.spec
        if running != wanted.digest():
            return f"it runs spec {running or 'unknown'}, wanted is {wanted.digest()}"
        now = basis(self.scene, wanted.model)
        return "" if self.record.basis == now else "its model's content or its credentials changed"

    def _adopted(self, status: UnitStatus) -> Decision:
        health, now = self.health, self.scene.now
        if self._serves(status):
            since = self.record.ready_since
            self.record = msgspec.structs.replace(self.record, ready_since=now if since is None else since)
            return self._is(Observed.READY)
        silent = health.silent_since if health is not None else None
        if self.record.ready_since is not None and silent is not None and now - silent >= HUNG_SECONDS:
            return self._is(Observed.STOPPING, f"it gave no answer for {HUNG_SECONDS:g} s", Act.STOP)
        launched = self.record.launched
        if self.record.ready_since is None and launched and now - launched >= LOAD_SECONDS:
            return self._is(Observed.STOPPING, f"it was not ready {LOAD_SECONDS:g} s after its start", Act.STOP)
        return self._is(Observed.STARTING, (health.said if health is not None else "") or status.said)

    def _serves(self, status: UnitStatus) -> bool:
        if self.health is None:
            # A hive that just started has not asked yet: what was ready stays in rotation until a probe says otherwise.
            return status.phase is Phase.RUNNING and self.record.ready_since is not None
        return status.phase is Phase.RUNNING and self.health.ready

    def _ended(self) -> Decision:
        if self.record.launched is not None:
            self.record = exits.noted(self.record, self.status, now=self.scene.now)
        if self.wanted is None:
            if self.scene.desired is None:
                return self._is(Observed.EXITED, self.record.said or "it does not run, and nothing says that it should")
            return self._is(Observed.EXITED, act=Act.FORGET)
        if self.record.spec and self.record.identity != self._identity(self.wanted):
            # What failed before was something else.
            self.record = msgspec.structs.replace(
                self.record, streak=0, failures=(), crash_loop=False, next_try=0.0, blocked=""
            )
        return self._obstacle(self.wanted) or self._is(Observed.STARTING, act=Act.START)

    def _identity(self, wanted: WorkerSpec) -> str:
        return f"{wanted.digest()}/{basis(self.scene, wanted.model)}"

    def _obstacle(self, wanted: WorkerSpec) -> Decision | None:
        scene, record = self.scene, self.record
        model = scene.models.get(wanted.model)
        if model is None:
            return self._is(Observed.EXITED, f"the desired document does not describe model {wanted.model}")
        if record.blocked and record.blocked == f"{self._identity(wanted)}/{model.stamp}":
            return self._is(Observed.EXITED, f"{_reason(record)}; not tried again until its spec or model changes")
        if not model.ready:
            return self._is(Observed.FETCHING, model.said)
        if wanted.engine not in scene.engines:
            self.record = msgspec.structs.replace(record, last_exit=ExitReason.ENGINE_MISSING)
            said = f"engine {wanted.engine} is not installed on this host; add it in the inventory and run the deploy"
            return self._is(Observed.EXITED, said)
        if scene.now < record.next_try:
            state = Observed.CRASH_LOOP if record.crash_loop else Observed.BACKOFF
            return self._is(state, f"{_reason(record)}; next try in {record.next_try - scene.now:.0f} s")
        return None


def _of_this_boot(record: WorkerRecord, boot: str) -> WorkerRecord:
    """Return the record without what an earlier boot meant: its times, and a launch that the reboot ended."""
    if record.boot == boot:
        return record
    return msgspec.structs.replace(
        record,
        boot=boot,
        launched=None,
        ready_since=None,
        stop_asked=None,
        streak=0,
        failures=(),
        crash_loop=False,
        next_try=0.0,
        last_exit=record.last_exit if record.blocked else None,
    )


def _reason(record: WorkerRecord) -> str:
    reason = record.last_exit or ExitReason.CRASHED
    return f"{reason.value}: {record.said}" if record.said else reason.value
