"""The owner of the fleet's state: takes heartbeats, plans, remembers, and tells routing and hives what follows."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rbee_runtime import logs
from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.events import EventLog
from rbee_runtime.protocol import Heartbeat, HeartbeatAck, WorkerReport
from rbee_runtime.queen import loads, outlook, seating
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.external import WAIT_SECONDS, Externals
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.history import KEEP, History
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.lifecycle import Lifecycle, is_kept_up
from rbee_runtime.queen.loads import Sight
from rbee_runtime.queen.membership import Membership, Presence
from rbee_runtime.queen.placement import Plan
from rbee_runtime.queen.planner import Planner
from rbee_runtime.queen.records import Assignment, Cause, KeyRecord
from rbee_runtime.queen.renewal import build_of
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.seats import Seat
from rbee_runtime.queen.showing import Showing
from rbee_runtime.queen.situation import Situation
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.writes import Writes
from rbee_runtime.states import Observed

TICK_SECONDS = 1.0


class Controller:
    """Everything here runs on one event loop and changes state in plain calls, so nothing interleaves."""

    def __init__(
        self,
        *,
        store: Store,
        writes: Writes,
        fleet: FleetSource,
        keys: Keys,
        documents: Documents,
        scheme: str,
        clock: Callable[[], float],
        new_id: Callable[[str], str] = lambda slug: f"{slug}-{secrets.token_hex(3)}",
    ) -> None:
        self.fleet = fleet
        self.resolve = fleet.resolve
        self.continues = fleet.continues
        self.keys = keys
        self.documents = documents
        self.membership = Membership(clock)
        self.roster = Roster(clock)
        self.choose = self.roster.choose
        self.longest = self.roster.longest
        self.externals = Externals(clock)
        self.externals.on_change = self.publish
        self.assignments = Assigned(store.assignments())
        self.unreachable: set[str] = set()
        self.on_change: Callable[[], None] = lambda: None
        self.waiting: Callable[[str], int] = lambda _: 0
        self._store = store
        self._writes = writes
        self.written = writes.settled
        self._scheme = scheme
        self._clock = clock
        self._new_id = new_id
        self._planned = clock()
        self._drained_off: dict[str, tuple[Assignment, ...]] = {}
        self.history = History(EventLog(secrets.token_hex(8), keep=KEEP))
        self.keys.record = self.history.record
        self.lifecycle = Lifecycle(store, writes.put, clock, record=self.history.record)
        self.retry_after = self.lifecycle.retry_after
        self.membership.restore(store.hives())
        self._planner = Planner(
            fleet,
            self.assignments,
            self.membership,
            self.roster,
            self.lifecycle,
            clock=clock,
            waiting=self._waiting,
        )
        self._showing = Showing(
            self.assignments,
            self._planner.sightings,
            documents,
            self.externals,
            self.roster,
            seat=self._seat,
            look=self.history.look,
        )
        self.reasons = self._planner.reasons
        self.reconcile()

    @property
    def store_problem(self) -> str:
        """Return why what is decided is not on the disk, "" where it is."""
        return self._writes.problem

    def key(self, key_id: str) -> KeyRecord | None:
        """Return a key that works, or None."""
        return self.keys.get(key_id)

    def model(self, name: str) -> FleetModel | None:
        """Return a declared model, or None."""
        return self.fleet.models.get(name)

    def load_wait(self, model: str) -> float | None:
        """Return how many seconds a request waits for a model that is not ready, None for one that nobody declares."""
        declared = self.model(model)
        if declared is not None:
            return declared.load_wait
        return WAIT_SECONDS if model in self.fleet.names else None

    def seats(self, model: str) -> Sequence[Seat]:
        """Return the workers of a model."""
        return self.roster.of(model)

    def hopeless(self, model: str) -> str:
        """Return why no worker of this model will be ready without somebody's help, or an empty string."""
        failure, mine = self.lifecycle.failure(model), self._standings(model)
        if failure or mine:
            return failure or outlook.hopeless(mine)
        reasons = self.reasons.get(model, ())
        return "" if model in self._planner.hopeful or not reasons else f"it fits nowhere ({'; '.join(reasons)})"

    def absence(self, model: str) -> str:
        """Return what keeps the workers of this model from being ready now, or an empty string."""
        mine = self._standings(model)
        waits = "; ".join(self.reasons.get(model, ())) if not mine else ""
        said = (outlook.absence(mine), waits, self.externals.absence(model))
        return "; ".join(part for part in said if part)

    def is_cold(self, model: str) -> bool:
        """Say whether a model has no worker, and none is to come until somebody asks for it."""
        declared, job = self.model(model), self.lifecycle.jobs.get(model)
        comes = self._standings(model) or (job is not None and job.open)
        return declared is not None and not is_kept_up(declared) and not comes

    def want(self, model: str, cause: Cause = Cause.REQUEST) -> None:
        """Have a model loaded, unless it serves, be it that it is busy, or is on its way."""
        declared = self.model(model)
        if declared is not None and self._want(declared, cause):
            began, taken = self._clock(), time.thread_time()
            self._settle([model])
            ms, processor_ms = 1000 * (self._clock() - began), 1000 * (time.thread_time() - taken)

            def planned() -> None:
                written_ms = 1000 * (self._clock() - began)
                logs.info("load planned", model=model, ms=ms, processor_ms=processor_ms, written_ms=written_ms)

            self._writes.after(planned)

    def _want(self, model: FleetModel, cause: Cause = Cause.REQUEST) -> bool:
        # One that empties itself takes nobody, and is not loaded twice either.
        return not loads.is_served(self._standings(model.name)) and self.lifecycle.want(model, cause)

    def _waiting(self, model: str) -> int:
        # Whom to ask is known once there are lines.
        return self.waiting(model)

    def _standings(self, model: str) -> list[outlook.Standing]:
        return [outlook.Standing(entry, self._heard(entry.hive)) for entry in self.assignments.of(model)]

    def _heard(self, hive: str) -> Heartbeat | None:
        member = self.membership.members.get(hive)
        return member.report if member is not None else None

    def report(self, worker: str) -> WorkerReport | None:
        """Return what its hive last said about a worker."""
        entry = self.assignments.get(worker)
        return outlook.Standing(entry, self._heard(entry.hive)).report if entry is not None else None

    def outdated(self, entry: Assignment) -> bool:
        """Say whether a worker has another build than its hive has now, or is being replaced for that."""
        hive = self._planner.sightings.views.get(entry.hive)
        if hive is None or not hive.builds or self.membership.presence(entry.hive) is not Presence.LIVE:
            return False
        differs = build_of(entry.spec.engine, hive, entry.spec.build) != entry.spec.build
        return differs or self.renewed(entry.id)

    def renewed(self, worker: str) -> bool:
        """Say whether a worker got another build and has not been ready since."""
        return self._planner.rolling.unfinished(worker)

    def url(self, entry: Assignment) -> str:
        """Return where a worker listens, without a path."""
        host = f"[{entry.address}]" if ":" in entry.address else entry.address
        return f"{self._scheme}://{host}:{entry.port}"

    def heartbeat(self, report: Heartbeat) -> HeartbeatAck:
        """Take a heartbeat and return the document that its hive should follow."""
        before = self._heard(report.hive)
        back = self.membership.presence(report.hive) is not Presence.LIVE
        if back:
            logs.info("hive heard", hive=report.hive, url=report.url, version=report.version)
            self.lifecycle.hive_came()
        if self.membership.hear(report):
            record = self.membership.members[report.hive].record
            self._writes.put(lambda: self._store.put_hive(record))
        self._planner.hear(report, before)
        self._observe(report, back=back)
        if self._clock() - self._planned >= TICK_SECONDS:
            self.reconcile()
        elif back or self.documents.problem(report.hive) or self._matters(before, report):
            self._settle()
        wanted = self.documents.heard(report.hive, report.url, report.epoch, report.revision)
        self.documents.pulls.hear(report, wanted)
        return HeartbeatAck(
            fleet=wanted.fleet, epoch=wanted.epoch, revision=wanted.revision, queen=self.documents.signature
        )

    def _matters(self, before: Heartbeat | None, report: Heartbeat) -> bool:
        """Say whether what a heartbeat tells is to be acted on at once."""
        return seating.tells(before, report) or self._planner.awaits(report)

    def doubt(self, worker: str) -> None:
        """Take a worker that refuses connections out of rotation until a probe or its hive says that it is back."""
        entry = self.assignments.get(worker)
        self.externals.doubt(worker)
        if entry is not None and worker not in self.unreachable:
            logs.warning("worker unreachable", id=worker, hive=entry.hive, url=self.url(entry))
            self.unreachable = self.unreachable | {worker}
            self.publish()

    def set_drained(self, hive: str, *, drained: bool) -> None:
        """Drain a hive or end that, or raise RequestError 404."""
        if hive not in self._planner.sightings.views:
            raise RequestError(404, f"there is no hive {hive!r} in the inventory", code="hive_not_found")
        record = self.membership.set_drained(hive, drained=drained)
        self._writes.put(lambda: self._store.put_hive(record))
        self._planner.sightings.look(hive)
        if not drained:
            self._take_back(hive)
        logs.info("hive drained" if drained else "hive undrained", hive=hive)
        self.reconcile()

    def unheard_drain(self, hive: str) -> str:
        """Return why a drain that was asked for is not in force on its hive yet, or an empty string."""
        member = self.membership.members.get(hive)
        if member is None or not member.record.drained:
            return ""
        away = self.membership.presence(hive) is not Presence.LIVE
        if not away and not (self.documents.unheard(hive) and self.documents.problem(hive)):
            return ""
        return "the drain is noted; the hive is away, and its workers run on until it is back and hears of it"

    def _take_back(self, hive: str) -> None:
        """Want the workers again that a drain let go and whose hive never heard of it: they run there as before."""
        for entry in self._drained_off.pop(hive, ()):
            if self.documents.unheard(hive):
                self.assignments.setdefault(entry.id, entry)
                self._writes.put(partial(self._store.change_assignments, [entry], ()))

    def reconcile(self) -> None:
        """Follow the clock: look at every model, plan, and carry the plan out."""
        self._planned = self._clock()
        self._planner.tick()
        self._settle(self.fleet.models)

    def _settle(self, names: Iterable[str] = ()) -> None:
        """Look at these models and at those about which something changed, plan, and carry the plan out."""
        self._note()
        looked_at = {*names, *self._planner.changed_models()}
        self._planner.look(looked_at)
        for name in looked_at:
            # Who waited for a slot when the last worker went has no load yet.
            if self.waiting(name) and (model := self.model(name)) is not None:
                self._want(model)
        self._carry_out()
        if self.lifecycle.judge(self.fleet.models, self._sight):
            self._carry_out()
        self.publish()

    def situation(self) -> Situation:
        """Return everything that a plan of this moment depends on."""
        return self._planner.situation(self.unreachable)

    def _carry_out(self) -> None:
        now = self.situation()
        outcome = self._planner.plan(now, self._new_id)
        said = outcome.reasons if outcome is not None else {}
        self.history.planned(said, frozen=now.frozen, settled=now.settled)
        if outcome is not None:
            self._adopt(outcome)

    def _sight(self, model: str) -> Sight:
        return loads.sight(
            model,
            self._standings(model),
            size=self._planner.headers.size(self.model(model)),
            lacking=self.reasons.get(model, ()),
            hopeful=model in self._planner.hopeful,
        )

    def _note(self) -> None:
        """Tell who keeps an eye on workers which of them came, changed or went."""
        changed = self.assignments.take_changed()
        self._planner.note(changed)
        self._showing.changed(changed)

    def publish(self) -> None:
        """Show routing and the documents what is assigned."""
        self._note()
        self._showing.show(self.fleet.current, self._planner.rolling.retiring, self.unreachable)
        self.on_change()

    async def run(self) -> None:
        """Follow the fleet file and the clock until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            before = self.fleet.problem
            if self.fleet.poll():
                logs.info("fleet file loaded", models=len(self.fleet.current.models))
                self._writes.put(self.fleet.remember)
            elif self.fleet.problem and self.fleet.problem != before:
                logs.error("fleet file refused; the last good one stays in force", why=self.fleet.problem)
            self.reconcile()

    def _observe(self, report: Heartbeat, *, back: bool) -> None:
        """Note where the hive's workers are and in which state; what is unchanged of a doubted one proves nothing."""
        seen = {worker.id: worker for worker in report.workers}
        changed = []
        mine = list(self.assignments.on(report.hive))
        for entry in mine:
            now = seating.seen(entry, seen.get(entry.id))
            if now != entry:
                self.assignments[entry.id] = now
                changed.append(now)
                logs.info("worker", id=entry.id, hive=entry.hive, state=now.observed or "absent")
        self.unreachable = self.unreachable - {entry.id for entry in (mine if back else changed)}
        if changed:
            # Hives tell it again.
            self._writes.put(lambda: self._store.change_assignments(changed, ()), durable=False)

    def _adopt(self, outcome: Plan) -> None:
        put = [entry for entry in outcome.put if self.assignments.get(entry.id) != entry]
        if not put and not outcome.dropped:
            return
        for entry in put:
            logs.info("assigned", worker=entry.id, hive=entry.hive, intent=entry.intent)
        dropped = outcome.dropped
        self._writes.put(lambda: self._store.change_assignments(put, dropped))
        for worker in dropped:
            entry = self.assignments.pop(worker)
            logs.info("released", worker=worker, hive=entry.hive)
            if entry.hive in self.membership.members and self.membership.members[entry.hive].record.drained:
                self._drained_off[entry.hive] = (*self._drained_off.get(entry.hive, ()), entry)
        for entry in put:
            self.assignments[entry.id] = entry

    def _seat(self, entry: Assignment) -> Seat:
        drained = seating.is_drained(self.membership.members.get(entry.hive))
        kept_out = drained or entry.id in self.unreachable or self._planner.rolling.retires(entry.id)
        usable = self._serves(entry) and entry.port > 0 and not kept_out
        return seating.seat_of(entry, self.url(entry), usable=usable)

    def _serves(self, entry: Assignment) -> bool:
        """Say whether a worker serves and goes on to: one with an older spec only while its hive cannot replace it."""
        if entry.observed is not Observed.DRIFTED:
            return entry.observed is Observed.READY
        report = self.report(entry.id)
        if report is None or report.state is not Observed.READY:
            return False
        return report.wanted == entry.spec.digest() or bool(self.documents.problem(entry.hive))
