"""The owner of the fleet's state: takes heartbeats, plans, remembers, and tells routing and hives what follows."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rbee_runtime import logs
from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError, StateError
from rbee_runtime.events import EventLog
from rbee_runtime.protocol import Heartbeat, HeartbeatAck, WorkerReport
from rbee_runtime.queen import loads, needs, outlook, seating, traffic
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.external import WAIT_SECONDS, Externals
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.history import KEEP, History, moment
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.lifecycle import Lifecycle, is_kept_up
from rbee_runtime.queen.loads import Sight
from rbee_runtime.queen.membership import Membership, Presence
from rbee_runtime.queen.placement import plan
from rbee_runtime.queen.records import Assignment, Cause, KeyRecord
from rbee_runtime.queen.renewal import build_of
from rbee_runtime.queen.rolling import Rolling
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.seats import Seat
from rbee_runtime.queen.situation import HiveView, Situation
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.uses import Uses
from rbee_runtime.states import Observed

TICK_SECONDS = 1.0
SETTLE_SECONDS = 10.0
"""Two heartbeats: after that, hives that have not spoken do not hold up placement."""


class Controller:
    """Everything here runs on one event loop and changes state in plain calls, so nothing interleaves."""

    def __init__(
        self,
        *,
        store: Store,
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
        self.assignments: dict[str, Assignment] = {entry.id: entry for entry in store.assignments()}
        self.reasons: dict[str, tuple[str, ...]] = {}
        self.unreachable: set[str] = set()
        self.store_problem = store.problem
        self.on_change: Callable[[], None] = lambda: None
        self.waiting: Callable[[str], int] = lambda _: 0
        self._store = store
        self._scheme = scheme
        self._clock = clock
        self._new_id = new_id
        self._started = self._planned = clock()
        self.history = History(EventLog(secrets.token_hex(8), keep=KEEP))
        self.keys.record = self.history.record
        self._stuck: frozenset[str] = frozenset()
        self._rolling = Rolling(clock, self.assignments.values())
        self._drained_off: dict[str, tuple[Assignment, ...]] = {}
        self._hopeful: frozenset[str] = frozenset()
        self._headers = seating.Headers()
        self._learnt: Mapping[str, int] = {}
        self._uses = Uses(clock)
        self.lifecycle = Lifecycle(store, self._remember, clock, record=self.history.record)
        self.retry_after = self.lifecycle.retry_after
        self.membership.restore(store.hives())
        self.reconcile()

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
        return "" if model in self._hopeful or not reasons else f"it fits nowhere ({'; '.join(reasons)})"

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
            self.reconcile()

    def _want(self, model: FleetModel, cause: Cause = Cause.REQUEST) -> bool:
        # One that empties itself takes nobody, and is not loaded twice either.
        return not loads.is_served(self._standings(model.name)) and self.lifecycle.want(model, cause)

    def _standings(self, model: str) -> list[outlook.Standing]:
        mine = (entry for entry in self.assignments.values() if entry.spec.model == model)
        return [outlook.Standing(entry, self._heard(entry.hive)) for entry in mine]

    def _heard(self, hive: str) -> Heartbeat | None:
        member = self.membership.members.get(hive)
        return member.report if member is not None else None

    def report(self, worker: str) -> WorkerReport | None:
        """Return what its hive last said about a worker."""
        entry = self.assignments.get(worker)
        return outlook.Standing(entry, self._heard(entry.hive)).report if entry is not None else None

    def outdated(self, entry: Assignment) -> bool:
        """Say whether a worker has another build than its hive has now, or is being replaced for that."""
        hive = seating.hive_view(entry.hive, {}, self.membership)
        if hive.presence is not Presence.LIVE or not hive.builds:
            return False
        differs = build_of(entry.spec.engine, hive, entry.spec.build) != entry.spec.build
        return differs or self.renewed(entry.id)

    def renewed(self, worker: str) -> bool:
        """Say whether a worker got another build and has not been ready since."""
        return self._rolling.unfinished(worker)

    def url(self, entry: Assignment) -> str:
        """Return where a worker listens, without a path."""
        host = f"[{entry.address}]" if ":" in entry.address else entry.address
        return f"{self._scheme}://{host}:{entry.port}"

    def heartbeat(self, report: Heartbeat) -> HeartbeatAck:
        """Take a heartbeat and return the document that its hive should follow."""
        self._learn(report)
        before = self._heard(report.hive)
        back = self.membership.presence(report.hive) is not Presence.LIVE
        if back:
            logs.info("hive heard", hive=report.hive, url=report.url, version=report.version)
        if self.membership.hear(report):
            record = self.membership.members[report.hive].record
            self._remember(lambda: self._store.put_hive(record))
        self._observe(report, back=back)
        due = back or bool(self.documents.problem(report.hive)) or self._clock() - self._planned >= TICK_SECONDS
        if due or seating.differs(before, report):
            self.reconcile()
        wanted = self.documents.heard(report.hive, report.url, report.epoch, report.revision)
        self.documents.pulls.hear(report, wanted)
        return HeartbeatAck(fleet=wanted.fleet, epoch=wanted.epoch, revision=wanted.revision)

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
        if hive not in self._views():
            raise RequestError(404, f"there is no hive {hive!r} in the inventory", code="hive_not_found")
        record = self.membership.set_drained(hive, drained=drained)
        self._remember(lambda: self._store.put_hive(record))
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
                self._remember(partial(self._store.change_assignments, [entry], ()))

    def reconcile(self) -> None:
        """Plan anew and carry the plan out."""
        self._planned = self._clock()
        self._uses.look(self.assignments.values(), self.roster)
        entries, loading = self.assignments.values(), {job.model for job in self.lifecycle.jobs.values() if job.open}
        seen = traffic.seen(entries, self.roster, busy=self._busy(), waiting=self.waiting, loading=loading)
        self.lifecycle.look(self.fleet.current.models, seen)
        for model in self.fleet.current.models:
            # Who waited for a slot when the last worker went has no load yet.
            if self.waiting(model.name):
                self._want(model)
        self._stuck = outlook.stuck({worker: self.report(worker) for worker in self.assignments}, self._stuck)
        self._carry_out()
        if self.lifecycle.judge(self.fleet.models, self._sight):
            self._carry_out()
        self.publish()

    def situation(self) -> Situation:
        """Return everything that a plan of this moment depends on."""
        views = self._views()
        wishes = self.lifecycle.wishes(self.waiting)
        sizes = {name: self._headers.size(model) for name, model in self.fleet.models.items()}
        return Situation(
            fleet=self.fleet.current,
            hives=views,
            existing=tuple(self.assignments.values()),
            busy=self._busy(),
            held=self._rolling.held(filter(self.roster.in_flight, self.assignments)),
            stuck=self._stuck,
            unreachable=frozenset(self.unreachable),
            broken=self._rolling.broken(self.assignments.values()),
            retiring=self._rolling.retiring,
            frozen=self.membership.frozen(views.keys()),
            settled=self._settled(views),
            wanted=wishes.wanted,
            waiting=frozenset(name for name in self.fleet.models if self.waiting(name)),
            queue=wishes.queue,
            starved=wishes.starved,
            moving=wishes.moving,
            uses={e.id: self._uses.of(e, sizes.get(e.spec.model, 0)) for e in self.assignments.values()},
            facts=self._headers.known,
            learnt=self._learnt,
        )

    def _carry_out(self) -> None:
        now = self.situation()
        outcome = plan(now, self._new_id)
        self._hopeful = outcome.hopeful
        self.reasons = dict(outcome.reasons)
        self.history.planned(self.reasons, frozen=now.frozen, settled=now.settled)
        self._rolling.planned(self.assignments, outcome)
        self.lifecycle.planned(self.assignments, outcome)
        self._adopt(outcome.assignments)

    def _sight(self, model: str) -> Sight:
        return loads.sight(
            model,
            self._standings(model),
            size=self._headers.size(self.model(model)),
            lacking=self.reasons.get(model, ()),
            hopeful=model in self._hopeful,
        )

    def _learn(self, report: Heartbeat) -> None:
        """Take in what a hive knows of the memory that models need."""
        self._headers.hear(report)
        for worker in report.workers:
            entry = self.assignments.get(worker.id)
            before = self.report(worker.id)
            if entry is not None and worker.need and (before is None or before.need != worker.need):
                self._learnt = needs.learn(self._learnt, entry.spec, entry.content, worker.need)

    def publish(self) -> None:
        """Show routing and the documents what is assigned."""
        by_hive: dict[str, list[Assignment]] = defaultdict(list)
        for entry in self.assignments.values():
            by_hive[entry.hive].append(entry)
        self.documents.update(self.fleet.current, by_hive, seating.holders(self.membership))
        self.externals.follow(self.fleet.current.external)
        self.roster.show([*(self._seat(entry) for entry in self.assignments.values()), *self.externals.seats()])
        self.history.look(moment(self.membership.members, self.assignments, self.unreachable, self._clock()))
        self.on_change()

    async def run(self) -> None:
        """Follow the fleet file and the clock until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            before = self.fleet.problem
            if self.fleet.poll():
                logs.info("fleet file loaded", models=len(self.fleet.current.models))
                self._remember(self.fleet.remember)
            elif self.fleet.problem and self.fleet.problem != before:
                logs.error("fleet file refused; the last good one stays in force", why=self.fleet.problem)
            self.reconcile()

    def _views(self) -> dict[str, HiveView]:
        declared = {hive.name: hive.labels for hive in self.fleet.current.hives}
        names: dict[str, dict[str, str]] = declared or {name: {} for name in self.membership.members}
        return {name: seating.hive_view(name, labels, self.membership) for name, labels in names.items()}

    def _settled(self, views: dict[str, HiveView]) -> bool:
        heard = all(view.presence is not Presence.UNKNOWN for view in views.values())
        return heard or self._clock() - self._started >= SETTLE_SECONDS

    def _busy(self) -> frozenset[str]:
        reports = {worker: self.report(worker) for worker in self.assignments}
        return frozenset(
            worker
            for worker, report in reports.items()
            if self.roster.in_flight(worker) or (report is not None and report.in_flight > 0)
        )

    def _observe(self, report: Heartbeat, *, back: bool) -> None:
        """Note where the hive's workers are and in which state; what is unchanged of a doubted one proves nothing."""
        seen = {worker.id: worker for worker in report.workers}
        changed = []
        mine = [entry for entry in self.assignments.values() if entry.hive == report.hive]
        for entry in mine:
            now = seating.seen(entry, seen.get(entry.id))
            if now != entry:
                self.assignments[entry.id] = now
                changed.append(now)
                logs.info("worker", id=entry.id, hive=entry.hive, state=now.observed or "absent")
        self.unreachable = self.unreachable - {entry.id for entry in (mine if back else changed)}
        if changed:
            self._remember(lambda: self._store.change_assignments(changed, ()))

    def _adopt(self, planned: Sequence[Assignment]) -> None:
        wanted = {entry.id: entry for entry in planned}
        put = [entry for entry in planned if self.assignments.get(entry.id) != entry]
        drop = [worker for worker in self.assignments if worker not in wanted]
        if not put and not drop:
            return
        for entry in put:
            logs.info("assigned", worker=entry.id, hive=entry.hive, intent=entry.intent)
        for worker in drop:
            entry = self.assignments[worker]
            logs.info("released", worker=worker, hive=entry.hive)
            if entry.hive in self.membership.members and self.membership.members[entry.hive].record.drained:
                self._drained_off[entry.hive] = (*self._drained_off.get(entry.hive, ()), entry)
        self._remember(lambda: self._store.change_assignments(put, drop))
        self.assignments = wanted

    def _seat(self, entry: Assignment) -> Seat:
        drained = seating.is_drained(self.membership.members.get(entry.hive))
        kept_out = drained or entry.id in self.unreachable or self._rolling.retires(entry.id)
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

    def _remember(self, write: Callable[[], None]) -> None:
        """Write, or go on from memory and say so: a full disk must not stop answers."""
        try:
            write()
        except StateError as error:
            if str(error) != self.store_problem:
                logs.error("state not saved", why=str(error))
            self.store_problem = str(error)
        else:
            self.store_problem = ""
