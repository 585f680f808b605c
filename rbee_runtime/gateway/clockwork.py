"""Limits of time that move on often and pass rarely: one look at all of them ten times a second, no timer for each."""

import asyncio
from collections.abc import Collection
from typing import Protocol

LOOK_SECONDS = 0.1
"""A limit is passed by as much at most; the shortest of them is fifteen seconds."""


class Limited(Protocol):
    """What has a limit of time."""

    @property
    def due(self) -> float:
        """Return when the limit passes, in the loop's time; NEVER for none."""
        ...

    def passed(self) -> None:
        """Act: the limit has passed."""


NEVER = float("inf")


class Clockwork:
    """Looks while there is something to look at."""

    def __init__(self, limited: Collection[Limited], loop: asyncio.AbstractEventLoop) -> None:
        self._limited = limited
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on; more calls do nothing."""
        if self._handle is None:
            self._handle = self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._handle = None
        now = self._loop.time()
        found = [each for each in self._limited if each.due <= now]
        if self._limited:
            self.start()
        for each in found:
            # One that ended by what became of another one before it has no limit any more.
            if each.due <= now:
                each.passed()
