"""What plans are made from, kept up to date by what changes, and which models the next plan has to look at."""

from collections.abc import Callable, Iterable, Mapping

from rbee_runtime.protocol import Heartbeat, WorkerReport
from rbee_runtime.queen import needs, outlook, seating, traffic
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.lifecycle import Lifecycle
from rbee_runtime.queen.membership import Membership
from rbee_runtime.queen.placement import NewId, Plan, plan
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.rolling import Rolling
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.sightings import Sightings
from rbee_runtime.queen.situation import Due, Refusals, Situation
from rbee_runtime.queen.uses import Uses
from rbee_runtime.states import Observed

SETTLE_SECONDS = 10.0
"""Two heartbeats: after that, hives that have not spoken do not hold up placement."""


class Planner:
    """Owns what is remembered from one plan to the next, on the controller's event loop."""

    def __init__(
        self,
        fleet: FleetSource,
        assigned: Assigned,
        membership: Membership,
        roster: Roster,
        lifecycle: Lifecycle,
        *,
        clock: Callable[[], float],
        waiting: Callable[[str], int],
    ) -> None:
        self.sightings = Sightings(membership)
        self.rolling = Rolling(clock, assigned.values())
        self.headers = seating.Headers()
        self.reasons: dict[str, tuple[str, ...]] = {}
        self.hopeful: set[str] = set()
        self._fleet = fleet
        self._assigned = assigned
        self._membership = membership
        self._roster = roster
        self._lifecycle = lifecycle
        self._clock = clock
        self._waiting = waiting
        self._started = clock()
        self._uses = Uses(clock)
        self._learnt: Mapping[str, int] = {}
        self._in_use: dict[str, frozenset[str]] = {}
        self._stuck: frozenset[str] = frozenset()
        self._heard: set[str] = set()
        self._exited: set[str] = set()
        self._models: set[str] = set()
        self._restless: set[str] = set()
        self._refusals: dict[str, Refusals] = {}
        self._worked_on: set[str] = set()
        self._before: Situation | None = None
        self._followed: object = None

    def hear(self, report: Heartbeat, before: Heartbeat | None) -> None:
        """Take in what a hive says; `before` is what it said last."""
        self._models |= self.headers.hear(report)
        known = {worker.id: worker.need for worker in before.workers} if before is not None else {}
        for worker in report.workers:
            entry = self._assigned.get(worker.id)
            if entry is not None and worker.need and known.get(worker.id) != worker.need:
                learnt = needs.learn(self._learnt, entry.spec, entry.content, worker.need)
                if learnt is not self._learnt:
                    self._learnt = learnt
                    self._models.add(entry.spec.model)
        self._in_use[report.hive] = frozenset(worker.id for worker in report.workers if worker.in_flight > 0)
        self._heard.add(report.hive)
        if any(worker.state is Observed.EXITED for worker in report.workers):
            self._exited.add(report.hive)
        else:
            self._exited.discard(report.hive)
        self.sightings.look(report.hive)

    def awaits(self, report: Heartbeat) -> bool:
        """Say whether it matters at once which workers have requests here: some are to go once those have ended."""
        view = self.sightings.views.get(report.hive)
        drained = view is not None and view.drained
        return drained or any(self.rolling.retires(worker.id) for worker in report.workers)

    def tick(self) -> None:
        """Follow the fleet file and the clock."""
        if self._followed is not self._fleet.current:
            self._followed = self._fleet.current
            self._before = None
            self.sightings.follow(self._fleet.current)
            self._lifecycle.follow(self._fleet.models)
        self.sightings.tick()

    def note(self, changed: Mapping[str, Assignment]) -> None:
        """Take in which workers came, changed or went."""
        self._uses.look(self._assigned, changed, self._roster.take_recent())
        self._models.update(entry.spec.model for entry in changed.values())
        self._worked_on.update(entry.hive for entry in changed.values())

    def look(self, names: Iterable[str]) -> None:
        """Look at what some models see of requests, and at the workers of hives that were heard."""
        declared = self._fleet.models
        loading = {job.model for job in self._lifecycle.jobs.values() if job.open}
        seen = traffic.seen(self._assigned, self._roster, busy=self._busy(), waiting=self._waiting, loading=loading)
        self._lifecycle.look([declared[name] for name in names if name in declared], seen)
        self._look_for_stuck()

    def changed_models(self) -> set[str]:
        """Return the models about which something changed since the last plan."""
        return set(self._models)

    def situation(self, unreachable: Iterable[str] = ()) -> Situation:
        """Return everything that a plan of this moment depends on."""
        wishes = self._lifecycle.wishes(self._waiting)
        return Situation(
            fleet=self._fleet.current,
            hives=self.sightings.views,
            existing=self._assigned.entries(),
            busy=self._busy(),
            held=self.rolling.held(self._roster.busy()),
            stuck=self._stuck,
            unreachable=frozenset(unreachable),
            broken=self.rolling.broken(self._assigned),
            retiring=self.rolling.retiring,
            frozen=self.sightings.frozen,
            settled=self.sightings.heard or self._clock() - self._started >= SETTLE_SECONDS,
            wanted=wishes.wanted,
            waiting=frozenset(name for name in self._fleet.models if self._waiting(name)),
            queue=wishes.queue,
            starved=wishes.starved,
            moving=wishes.moving,
            uses=self._uses.all(self._assigned, lambda name: self.headers.size(self._fleet.models.get(name))),
            facts=self.headers.known,
            learnt=self._learnt,
            indexed=self.sightings.index,
        )

    def plan(self, now: Situation, new_id: NewId) -> Plan | None:
        """Return what becomes of the assignments, None where nothing can have changed."""
        before, self._before = self._before, None
        hives, touched, models = self.sightings.take_due(), self.sightings.take_touched(), self.sightings.take_sized()
        due = None
        if before is not None and not _all_due(before, now):
            models |= self._due(before, now) | {e.spec.model for hive in hives for e in self._assigned.on(hive)}
            due = self._what_is_due(models, hives, touched | self._touched(before, now, models))
        outcome = plan(now, new_id, due) if due is None or due.models or due.hives or due.refusals else None
        # From here on: where a plan fails, the next one is about everything.
        self._before = now
        self._models, self._worked_on = set(), set()
        if outcome is not None:
            self._keep(outcome)
        return outcome

    def _keep(self, outcome: Plan) -> None:
        gone = outcome.looked_at | (self.reasons.keys() - self._fleet.models.keys())
        for name in gone:
            self.reasons.pop(name, None)
            self._refusals.pop(name, None)
        self.reasons.update(outcome.reasons)
        self._refusals.update(outcome.refusals)
        self.hopeful = (self.hopeful - gone) | outcome.hopeful
        self._restless = (self._restless - outcome.looked_at) | outcome.restless
        self._worked_on |= outcome.stirred
        self.rolling.planned(self._assigned, outcome)
        self._lifecycle.planned(self._assigned, outcome)

    def _what_is_due(self, models: set[str], hives: set[str], touched: set[str]) -> Due:
        """Return what another plan is about; models that fit nowhere are asked for where something changed.

        That may be by this very plan: one that it is about claims or takes room which others were told of.
        """
        news = bool(touched or models)
        still = {name: kept for name, kept in self._refusals.items() if name not in models} if news else {}
        return Due(frozenset(models), frozenset(hives), frozenset(touched), still)

    def _due(self, before: Situation, now: Situation) -> set[str]:
        """Return the models about which a plan may say something else than the last one."""
        moving = {worker for worker, _ in before.moving.items() ^ now.moving.items()}
        workers = (before.stuck ^ now.stuck) | (before.broken ^ now.broken) | moving
        models = {self._assigned[worker].spec.model for worker in workers if worker in self._assigned}
        models |= {name for name, _ in before.wanted.items() ^ now.wanted.items()}
        return models | (before.starved ^ now.starved) | self._restless | self._models

    def _touched(self, before: Situation, now: Situation, models: Iterable[str]) -> set[str]:
        """Return the hives that may say something else to models that fit nowhere, as their workers are not as before.

        Which of them can go for others depends on their requests, on those in line for their models, on how long they
        have been ready, and on how many workers their models have.
        """
        workers = (before.busy ^ now.busy) | self._uses.take_grown()
        touched = {self._assigned[worker].hive for worker in workers if worker in self._assigned}
        for name in {*models, *(before.waiting ^ now.waiting)}:
            touched.update(entry.hive for entry in self._assigned.of(name))
        return touched | self._worked_on

    def _busy(self) -> frozenset[str]:
        return frozenset(self._roster.busy()).union(*self._in_use.values())

    def _hives_of(self, workers: Iterable[str]) -> set[str]:
        return {self._assigned[worker].hive for worker in workers if worker in self._assigned}

    def _look_for_stuck(self) -> None:
        """Judge anew the workers of hives that were heard and have one that ended, or one that was stuck."""
        heard, self._heard = self._heard & (self._exited | self._hives_of(self._stuck)), set()
        reports: dict[str, WorkerReport | None] = {}
        for hive in heard:
            member = self._membership.members[hive]
            told = {report.id: report for report in member.report.workers} if member.report is not None else {}
            reports |= {entry.id: told.get(entry.id) for entry in self._assigned.on(hive)}
        others = frozenset(worker for worker in self._stuck - reports.keys() if worker in self._assigned)
        self._stuck = others | outlook.stuck(reports, self._stuck)


def _all_due(before: Situation, now: Situation) -> bool:
    return before.fleet is not now.fleet or (before.frozen, before.settled) != (now.frozen, now.settled)
