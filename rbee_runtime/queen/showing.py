"""Tells routing, hives and the history what is assigned, each time what changed since it was told last."""

from collections.abc import Callable, Collection, Iterable, Mapping

from rbee_runtime.config import FleetFile
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.external import Externals
from rbee_runtime.queen.history import Moment
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.seats import Seat
from rbee_runtime.queen.sightings import Sightings
from rbee_runtime.states import Observed


class Showing:
    """Remembers what was shown; `seat` says how routing is to see a worker, `look` tells of what differs."""

    def __init__(
        self,
        assigned: Assigned,
        sightings: Sightings,
        documents: Documents,
        externals: Externals,
        roster: Roster,
        *,
        seat: Callable[[Assignment], Seat],
        look: Callable[[Moment], None],
    ) -> None:
        self._assigned = assigned
        self._sightings = sightings
        self._documents = documents
        self._externals = externals
        self._roster = roster
        self._seat = seat
        self._look = look
        self._workers: dict[str, None] = {}
        self._hives: set[str] = set()
        self._drifted: set[str] = set()
        self._kept_out: frozenset[str] = frozenset()
        self._others: set[str] = set()

    def changed(self, changed: Mapping[str, Assignment]) -> None:
        """Note workers that came, changed or went."""
        self._workers.update(dict.fromkeys(changed))
        self._hives.update(entry.hive for entry in changed.values())
        drifted = {worker for worker, entry in changed.items() if entry.observed is Observed.DRIFTED}
        self._drifted = (self._drifted - changed.keys()) | drifted

    def show(self, fleet: FleetFile, retiring: frozenset[str], unreachable: Iterable[str]) -> None:
        """Show what changed; workers that retire or are not reached get no requests whatever their hives say."""
        doubted, told, self._workers = frozenset(unreachable), self._workers, {}
        self._show_hives(fleet)
        self._show_routing(fleet, told.keys(), retiring | doubted)
        workers = {worker: self._assigned.get(worker) for worker in told}
        self._look(Moment(self._sightings.take_seen(), workers, doubted))

    def _show_hives(self, fleet: FleetFile) -> None:
        moved = self._sightings.take_moved()
        hives = {entry.hive for model in moved for entry in self._assigned.of(model)} | self._hives
        hives |= self._documents.pulls.of_models(moved)
        self._documents.update(fleet, self._assigned, hives, self._sightings.holders)
        self._hives = set()

    def _show_routing(self, fleet: FleetFile, told: Collection[str], out: frozenset[str]) -> None:
        # What a drifted one is good for is also said by its hive's next report, and by what becomes of its document.
        workers = {*told, *(out ^ self._kept_out), *self._drifted}
        workers |= {entry.id for hive in self._sightings.take_drained() for entry in self._assigned.on(hive)}
        self._kept_out = out
        self._externals.follow(fleet.external)
        others = self._externals.seats()
        gone = (self._others - {seat.worker for seat in others}) | (workers - self._assigned.keys())
        self._others = {seat.worker for seat in others}
        own = [self._seat(self._assigned[worker]) for worker in workers if worker in self._assigned]
        self._roster.show([*own, *others], gone)
