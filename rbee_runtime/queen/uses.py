"""How workers are used: since when each is ready, when it last had a request, how long models take to load."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from rbee_runtime.queen.eviction import MIN_RESIDENCY
from rbee_runtime.queen.records import Assignment
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


class Uses:
    """Lives as long as the queen; one that starts counts from then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._reloads: dict[str, float] = {}
        self._young: list[tuple[float, str]] = []

    def look(self, assigned: Mapping[str, Assignment], changed: Iterable[str], recent: Iterable[str]) -> None:
        """Take a look at the workers that came, changed or went, and at those that had requests, since the last one."""
        now = self._clock()
        for worker in changed:
            entry = assigned.get(worker)
            if entry is None:
                self._lives.pop(worker, None)
            else:
                self._follow(self._lives.setdefault(worker, _Life(used=now)), entry, now)
        for worker in recent:
            if worker in self._lives:
                self._lives[worker].used = now

    def take_grown(self) -> set[str]:
        """Return the workers that have been ready for long enough since the last call that they may make room."""
        now, grown = self._clock(), set()
        while self._young and self._young[0][0] <= now:
            grown.add(heappop(self._young)[1])
        return grown

    def all(self, assigned: Mapping[str, Assignment], size: Callable[[str], int]) -> Mapping[str, Use]:
        """Return what speaks for each worker, worked out when somebody asks; `size` is of a model's files in bytes."""
        return _Each(assigned, lambda entry: self.of(entry, size(entry.spec.model)))

    def of(self, entry: Assignment, size: int) -> Use:
        """Return what speaks for a worker whose model's files have so many bytes."""
        life, now = self._lives.get(entry.id) or _Life(used=self._clock()), self._clock()
        resident = now - life.ready if life.ready is not None else 0.0
        reload = self._reloads.get(entry.spec.model, RELOAD_SECONDS + RELOAD_SECONDS_PER_GIB * size / GIB)
        return Use(resident, now - life.used, reload)

    def _follow(self, life: _Life, entry: Assignment, now: float) -> None:
        if entry.observed is Observed.READY and life.ready is None:
            life.ready = life.used = now
            heappush(self._young, (now + MIN_RESIDENCY, entry.id))
            if life.began is not None:
                self._reloads[entry.spec.model] = now - life.began
            life.began = None
        elif entry.observed is Observed.STARTING:
            life.ready = None
            life.began = now if life.began is None else life.began
        elif entry.observed is not Observed.READY:
            life.ready = life.began = None


class _Each(Mapping[str, Use]):
    def __init__(self, assigned: Mapping[str, Assignment], of: Callable[[Assignment], Use]) -> None:
        self._assigned = assigned
        self._of = of

    def __getitem__(self, worker: str) -> Use:
        return self._of(self._assigned[worker])

    def __iter__(self) -> Iterator[str]:
        return iter(self._assigned)

    def __len__(self) -> int:
        return len(self._assigned)
