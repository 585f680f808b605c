"""When the next heartbeat is due."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

JITTER = 0.1
"""Keeps the hives of a fleet that starts at once from reporting at once for ever."""

DEBOUNCE_SECONDS = 0.05


class Rhythm:
    """Counts from one beginning to the next, else one that is lost would be a silence of three periods.

    Of several in a row the queen is busy or away, and she has the longer pause: a thousand in a hurry keep her so.
    """

    def __init__(
        self,
        period: float,
        *,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period = period
        self._jitter = jitter
        self._clock = clock
        self._begun = 0.0
        self._lost = 0

    def begin(self) -> None:
        """Note that a heartbeat begins."""
        self._begun = self._clock()

    def ended(self, *, good: bool) -> None:
        """Note whether it was answered."""
        self._lost = 0 if good else self._lost + 1

    def pause(self) -> float:
        """Return the seconds until the next one is due, 0 where it is due already."""
        now = self._clock()
        since = self._begun if self._lost <= 1 else now
        return max(0.0, since + self._period * (1 + JITTER * (2 * self._jitter() - 1)) - now)

    async def wait(self, changed: asyncio.Event) -> None:
        """Return when the next one is due, or together with what else changes in the moment after a first change."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pause()):
                await changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
