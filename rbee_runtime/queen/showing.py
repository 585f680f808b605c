"""Tells routing and hives what is assigned, each time what changed since it was told last."""

from collections.abc import Callable, Iterable, Mapping

from rbee_runtime.config import FleetFile
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.external import Externals
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.routing import Roster, Seat
from rbee_runtime.queen.sightings import Sightings
from rbee_runtime.states import Observed


class Showing:
    """Remembers what was shown; `seat` says how routing is to see a worker."""

    def __init__(
        self,
        assigned: Assigned,
        sightings: Sightings,
        documents: Documents,
        externals: Externals,
        roster: Roster,
        seat: Callable[[Assignment], Seat],
    ) -> None:
        self._assigned = assigned
        self._sightings = sightings
        self._documents = documents
        self._externals = externals
        self._roster = roster
        self._seat = seat
        self._workers: set[str] = set()
        self._hives: set[str] = set()
        self._drifted: set[str] = set()
        self._kept_out: frozenset[str] = frozenset()
        self._others: set[str] = set()

    def changed(self, changed: Mapping[str, Assignment]) -> None:
        """Note workers that came, changed or went."""
        self._workers.update(changed)
        self._hives.update(entry.hive for entry in changed.values())
        drifted = {worker for worker, entry in changed.items() if entry.observed is Observed.DRIFTED}
        self._drifted = (self._drifted - changed.keys()) | drifted

    def show(self, fleet: FleetFile, kept_out: Iterable[str]) -> None:
        """Show what changed; `kept_out` are workers that get no requests whatever their hives say."""
        moved = self._sightings.take_moved()
        hives = {entry.hive for model in moved for entry in self._assigned.of(model)} | self._hives
        self._documents.update(fleet, self._assigned, hives, self._sightings.holders)
        self._hives = set()
        out = frozenset(kept_out)
        # What a drifted one is good for is also said by its hive's next report, and by what becomes of its document.
        workers = self._workers | (out ^ self._kept_out) | self._drifted
        workers |= {entry.id for hive in self._sightings.take_drained() for entry in self._assigned.on(hive)}
        self._workers, self._kept_out = set(), out
        self._externals.follow(fleet.external)
        others = self._externals.seats()
        gone = (self._others - {seat.worker for seat in others}) | (workers - self._assigned.keys())
        self._others = {seat.worker for seat in others}
        own = [self._seat(self._assigned[worker]) for worker in workers if worker in self._assigned]
        self._roster.show([*own, *others], gone)
