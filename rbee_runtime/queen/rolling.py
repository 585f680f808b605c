"""What is remembered of renewals from one plan to the next: who takes no more requests, and who is not back yet."""

from collections.abc import Callable, Iterable, Mapping

from rbee_runtime.queen.placement import Plan
from rbee_runtime.queen.records import Assignment
from rbee_runtime.states import Observed

EMPTY_SECONDS = 30.0
"""How long the renewal of a worker waits for the requests that it has: what was on its way to it has arrived by then,
and what is open then the worker finishes itself."""


FAILING = frozenset({Observed.CRASH_LOOP, Observed.EXITED})
"""States out of which a worker does not come by waiting."""

_NEVER_SERVED = FAILING | {Observed.FETCHING}


class Rolling:
    """Lives as long as the queen; one that starts takes workers that are not ready for workers that were replaced."""

    def __init__(self, clock: Callable[[], float], remembered: Iterable[Assignment]) -> None:
        self._clock = clock
        self._retiring: dict[str, float] = {}
        self._replaced = frozenset(e.id for e in remembered if e.spec.build and e.observed is not Observed.READY)
        self._failed_before: frozenset[str] = frozenset()

    def held(self, leased: Iterable[str]) -> frozenset[str]:
        """Return those of the workers with requests whose renewal waits for them."""
        now = self._clock()
        return frozenset(worker for worker in leased if now - self._retiring.get(worker, now) < EMPTY_SECONDS)

    def planned(self, before: Mapping[str, Assignment], outcome: Plan) -> None:
        """Note what a plan does about the assignments from before it."""
        now = self._clock()
        self._retiring = {worker: self._retiring.get(worker, now) for worker in outcome.retiring}
        replaced = self._replaced | _changed(before, outcome, lambda state: state not in _NEVER_SERVED)
        failed = self._failed_before | _changed(before, outcome, lambda state: state in FAILING)
        self._replaced, self._failed_before = (_not_ready(before, outcome, each) for each in (replaced, failed))

    @property
    def retiring(self) -> frozenset[str]:
        """Return the workers that take no more requests because they go or are to be renewed."""
        return frozenset(self._retiring)

    def retires(self, worker: str) -> bool:
        """Say whether a worker takes no more requests because it is to be renewed."""
        return worker in self._retiring

    def unfinished(self, worker: str) -> bool:
        """Say whether a worker was replaced for another build and has not been ready since.

        One that failed before, or whose files had not come, is none: it says nothing about the build.
        """
        return worker in self._replaced

    def broken(self, entries: Mapping[str, Assignment]) -> frozenset[str]:
        """Return the workers that failed with an earlier build and fail with this one: nobody waits for them."""
        failed = ((worker, entries.get(worker)) for worker in self._failed_before)
        return frozenset(worker for worker, entry in failed if entry is not None and entry.observed in FAILING)


def _not_ready(before: Mapping[str, Assignment], outcome: Plan, workers: Iterable[str]) -> frozenset[str]:
    changed = outcome.changed
    found = ((worker, changed[worker] if worker in changed else before.get(worker)) for worker in workers)
    return frozenset(worker for worker, entry in found if entry and entry.observed is not Observed.READY)


def _changed(before: Mapping[str, Assignment], outcome: Plan, was: Callable[[Observed | None], bool]) -> frozenset[str]:
    """Return the workers that a plan gives another build and whose state before was such."""
    pairs = ((before.get(entry.id, entry), entry) for entry in outcome.put)
    return frozenset(new.id for old, new in pairs if old.spec.build != new.spec.build and was(old.observed))
