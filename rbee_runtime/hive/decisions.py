"""What to do about each worker: one pure function over what is wanted, on record, running and on disk.

running    wanted    identity  decision
no         no        -         forget
no         yes       -         fetch the model, wait for the next try, or start
yes        no        -         orphan: stop, or keep while there is no desired document at all, or for 300 s if nothing
                               on this host says what it is
yes        yes       same      adopt: starting or ready by its probes; stop when it hangs
yes        yes       other     drifted: stop, then start anew; keep while the new model is not on disk
stopping   any       any       draining while requests are in flight, else stopping

A drained hive stops what runs and starts nothing. A worker whose device is lost does not count as ready.

Limits of patience count what looks and probes have witnessed (`health`, `loading`), so that a hive that was away, or a
host that was suspended, finds its workers as it left them. What does not end when it is killed is killed again for as
long as it is there, and says why it is still there.
"""

from dataclasses import replace

import msgspec

from rbee_runtime.hive import exits, loading, turns
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.obstacles import lost, obstacle
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.hive.scene import Act, Decision, ModelState, Scene
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import ExitReason, Observed

__all__ = ["Act", "Decision", "ModelState", "Scene", "decide"]

HUNG_SECONDS = 120.0
"""A worker that was ready and has been silent for so long is replaced; shorter pauses are waited out."""

ORPHAN_SECONDS = 300.0
"""A worker whose record and launch file are lost may be another queen's or a person's; somebody has time to see it."""

STOP_REPEAT_SECONDS = 10.0
"""A stop that did not begin by then got lost between our record and the launcher, or was refused; it is repeated."""


def decide(scene: Scene) -> list[Decision]:
    """Return one decision for every worker that is wanted, on record or running."""
    wanted = {spec.id: spec for spec in scene.desired.workers} if scene.desired is not None else {}
    ids = sorted({*wanted, *scene.records, *scene.statuses})
    return turns.take((_Case(scene, worker, wanted.get(worker)).decide() for worker in ids), scene)


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
        if self.scene.drained:
            return self._is(Observed.DRAINING, "this hive is drained; it stops after its requests", Act.STOP)
        if self.wanted is None:
            return self._orphan()
        drift = self._drift(self.wanted, status)
        if not drift:
            return self._adopted(status)
        model = self.scene.models.get(self.wanted.model)
        if model is None or not model.ready:
            kept = self._adopted(status)
            # One that hangs does not serve on; it is killed for its own reason.
            said = f"{drift}; it serves on with what it has open until the model is on disk"
            return kept if kept.act is not Act.NONE else replace(kept, said=said)
        return self._is(Observed.DRIFTED, f"{drift}; it stops after its requests and starts anew", Act.STOP)

    def _stopping(self, status: UnitStatus) -> Decision:
        busy = self.health is not None and self.health.in_flight > 0
        state = Observed.DRAINING if busy else Observed.STOPPING
        said = "; ".join(part for part in (self.record.stop_said, self._still_there()) if part)
        asked, given_up = self.record.stop_asked, self.record.stop_as is not None
        waits = status.phase is Phase.STOPPING and not given_up
        if asked is None or waits or self.scene.now - asked < STOP_REPEAT_SECONDS:
            return self._is(state, said)
        self.record = msgspec.structs.replace(
            self.record, stop_asked=self.scene.now, stop_repeats=self.record.stop_repeats + 1
        )
        return replace(self._is(state, said), act=Act.KILL if given_up else Act.STOP)

    def _still_there(self) -> str:
        refused = self.scene.refused.get(self.worker, "")
        if refused:
            return f"it could not be told to end: {refused}"
        repeats = self.record.stop_repeats
        return f"a stop was asked{f', {repeats + 1} times by now' if repeats else ''}"

    def _orphan(self) -> Decision:
        if self.scene.desired is None:
            return self._is(Observed.ORPHAN, "no desired document has come yet; it is kept as it is")
        if not self.record.spec and self._strange() < ORPHAN_SECONDS:
            said = f"nothing on this host says what it is; it is kept for {ORPHAN_SECONDS:g} s, then it is stopped"
            return self._is(Observed.ORPHAN, said)
        return self._is(Observed.ORPHAN, "the queen does not want it any more; it stops after its requests", Act.STOP)

    def _strange(self) -> float:
        """Return for how many seconds this worker has been here without anything that tells what it is."""
        since = self.record.stranger_since
        self.record = msgspec.structs.replace(self.record, stranger_since=self.scene.now if since is None else since)
        return self.scene.now - (self.record.stranger_since or 0.0)

    def _drift(self, wanted: WorkerSpec, status: UnitStatus) -> str:
        said = self.health.spec if self.health is not None else ""
        running = said or status.spec or self.record.spec
        if not wanted.agrees(running, self.record.build):
            return f"it runs spec {running or 'unknown'}, wanted is {wanted.digest()}"
        now, model = self.scene.basis(wanted.model), self.scene.models.get(wanted.model)
        seen = model is not None and model.ready
        if not self.record.basis and self.record.spec:
            # Recovered before its model was seen: that it runs the wanted spec is all that can be known.
            if seen:
                self.record = msgspec.structs.replace(self.record, basis=now)
            return ""
        if self.record.basis == now:
            return ""
        return "its model's content or its credentials changed" if seen else self._absent(wanted.model, model)

    def _absent(self, name: str, model: ModelState | None) -> str:
        """Return why nothing can be said of a model's content; it may be the one that the worker has open."""
        why = model.said if model is not None else self.scene.unseen or "the desired document does not describe it"
        return f"the wanted model {name} is not on this host's disk" + (f" ({why})" if why else "")

    def _adopted(self, status: UnitStatus) -> Decision:
        health, now = self.health, self.scene.now
        gone = lost(self.scene, self.record.devices)
        if self._serves(status) and not gone:
            since = self.record.ready_since
            self.record = msgspec.structs.replace(self.record, ready_since=now if since is None else since)
            return self._is(Observed.READY)
        if self.record.ready_since is not None and health is not None and health.silent >= HUNG_SECONDS:
            return self._given_up(f"it gave no answer for {HUNG_SECONDS:g} s")
        stopped = loading.verdict(self.scene.loads.get(self.worker), size=self._size())
        if stopped and self.record.ready_since is None:
            return self._given_up(stopped)
        if gone:
            return replace(self._is(Observed.STARTING, f"no requests go to it; {gone}"), reason=ExitReason.DEVICE_LOST)
        return self._is(Observed.STARTING, (health.said if health is not None else "") or status.said)

    def _size(self) -> int:
        """Return the bytes of the worker's model, 0 while they are not known."""
        model = self.scene.models.get(self.record.model)
        return model.size if model is not None else 0

    def _given_up(self, said: str) -> Decision:
        """Kill what would not react to a request to end; that counts as a failure, not as a wish."""
        self.record = msgspec.structs.replace(
            self.record, stop_asked=self.scene.now, stop_as=ExitReason.CRASHED, stop_said=said
        )
        return self._is(Observed.STOPPING, said, Act.KILL)

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
        if self.record.spec and self.record.identity != self.scene.identity(self.wanted):
            # What failed before was something else.
            self.record = exits.forgiven(self.record)
        found = obstacle(self.scene, self.record, self.wanted)
        if found is None:
            return self._is(Observed.STARTING, act=Act.START)
        return replace(self._is(found.state, found.said), reason=found.reason)


def _of_this_boot(record: WorkerRecord, boot: str) -> WorkerRecord:
    """Return the record without what an earlier boot meant: its times, and a launch that the reboot ended."""
    if record.boot == boot:
        return record
    return msgspec.structs.replace(
        exits.closed(exits.forgiven(record)),
        boot=boot,
        blocked=record.blocked,
        last_exit=record.last_exit if record.blocked else None,
    )
