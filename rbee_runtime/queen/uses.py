"""How workers are used: since when each is ready, when it last had a request, how long models take to load."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.situation import Use
from rbee_runtime.states import Observed

RELOAD_SECONDS, RELOAD_SECONDS_PER_GIB = 10.0, 1.0
"""Of a model that was not seen to load yet: a process, and a fast disk."""

GIB = 1024**3


@dataclass
class _Life:
    """Monotonic seconds; None is not yet."""

    began: float | None = None
    ready: float | None = None
    used: float = 0.0
    leases: int = 0


class Uses:
    """Lives as long as the queen; one that starts counts from then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._reloads: dict[str, float] = {}

    def look(self, entries: Iterable[Assignment], roster: Roster) -> None:
        """Take one look at every worker, and forget those that are gone."""
        before, now = self._lives, self._clock()
        self._lives = {}
        for entry in entries:
            life = self._lives[entry.id] = before.get(entry.id) or _Life(used=now)
            leases = roster.leases(entry.id)
            if leases != life.leases or roster.in_flight(entry.id):
                life.used, life.leases = now, leases
            self._follow(life, entry, now)

    def of(self, entry: Assignment, size: int) -> Use:
        """Return what speaks for a worker whose model's files have so many bytes."""
        life, now = self._lives.get(entry.id) or _Life(used=self._clock()), self._clock()
        resident = now - life.ready if life.ready is not None else 0.0
        reload = self._reloads.get(entry.spec.model, RELOAD_SECONDS + RELOAD_SECONDS_PER_GIB * size / GIB)
        return Use(resident, now - life.used, reload)

    def _follow(self, life: _Life, entry: Assignment, now: float) -> None:
        if entry.observed is Observed.READY and life.ready is None:
            life.ready = life.used = now
            if life.began is not None:
                self._reloads[entry.spec.model] = now - life.began
            life.began = None
        elif entry.observed is Observed.STARTING:
            life.ready = None
            life.began = now if life.began is None else life.began
        elif entry.observed is not Observed.READY:
            life.ready = life.began = None
