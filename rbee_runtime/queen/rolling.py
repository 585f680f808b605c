"""What is remembered of renewals from one plan to the next: who takes no more requests, and who is not back yet."""

from collections.abc import Callable, Iterable, Mapping

from rbee_runtime.queen.placement import Plan
from rbee_runtime.queen.records import Assignment
from rbee_runtime.states import Observed

EMPTY_SECONDS = 30.0
"""How long the renewal of a worker waits for the requests that it has: what was on its way to it has arrived by then,
and what is open then the worker finishes itself."""


class Rolling:
    """Lives as long as the queen; one that starts takes workers that are not ready for workers that were replaced."""

    def __init__(self, clock: Callable[[], float], remembered: Iterable[Assignment]) -> None:
        self._clock = clock
        self._retiring: dict[str, float] = {}
        self._replaced = frozenset(e.id for e in remembered if e.spec.build and e.observed is not Observed.READY)

    def held(self, leased: Iterable[str]) -> frozenset[str]:
        """Return those of the workers with requests whose renewal waits for them."""
        now = self._clock()
        return frozenset(worker for worker in leased if now - self._retiring.get(worker, now) < EMPTY_SECONDS)

    def planned(self, before: Mapping[str, Assignment], outcome: Plan) -> None:
        """Note what a plan does about the assignments from before it."""
        now = self._clock()
        self._retiring = {worker: self._retiring.get(worker, now) for worker in outcome.retiring}
        self._replaced = frozenset(
            entry.id
            for entry in outcome.assignments
            if entry.observed is not Observed.READY
            and (entry.id in self._replaced or before.get(entry.id, entry).spec.build != entry.spec.build)
        )

    def retires(self, worker: str) -> bool:
        """Say whether a worker takes no more requests because it is to be renewed."""
        return worker in self._retiring

    def unfinished(self, worker: str) -> bool:
        """Say whether a worker was replaced for another build and has not been ready since."""
        return worker in self._replaced
