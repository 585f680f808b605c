"""How far a model is: bytes, rate and the time that is left."""

import math
from collections.abc import Callable

from rbee_runtime.protocol import FetchReport
from rbee_runtime.states import FetchState

HALF_LIFE_SECONDS = 5.0
"""The rate forgets half of what it knew in this time: steady to look at, and soon right after a change."""


class Progress:
    """Counts bytes of one model; `clock` is monotonic seconds. `stopped` tells threads that nobody waits any more."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.done = 0
        self.total = 0
        self.state = FetchState.WAITING
        self.detail = ""
        self.stopped = False
        self._clock = clock
        self._rate = 0.0
        self._mark = (clock(), 0)

    def add(self, count: int) -> None:
        """Count bytes that came; negative when some have to come again."""
        self.done += count
        now = self._clock()
        then, before = self._mark
        if now - then >= 0.5:
            weight = 0.5 ** ((now - then) / HALF_LIFE_SECONDS)
            fresh = max(0.0, (self.done - before) / (now - then))
            self._rate = fresh if self._rate == 0 else weight * self._rate + (1 - weight) * fresh
            self._mark = (now, self.done)

    def held(self, count: int) -> None:
        """Count bytes that were here already; they say nothing about the rate."""
        self.done += count
        self._mark = (self._clock(), self.done)

    @property
    def rate(self) -> float:
        """Return bytes per second; falls to 0 while nothing comes."""
        silent = self._clock() - self._mark[0]
        return self._rate if silent < HALF_LIFE_SECONDS else self._rate * 0.5 ** (silent / HALF_LIFE_SECONDS)

    def report(self) -> FetchReport:
        """Return the present state for heartbeats and events."""
        moving = self.state is FetchState.FETCHING
        rate = self.rate if moving else 0.0
        left = max(0, self.total - self.done)
        eta = left / rate if moving and self.total and rate >= 1 else None
        return FetchReport(
            name=self.name,
            state=self.state,
            done=self.done,
            total=self.total,
            rate=round(rate, 1),
            eta=math.ceil(eta) if eta is not None else None,
            detail=self.detail,
        )
