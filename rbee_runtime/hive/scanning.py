"""Looks at the devices on a schedule, so that everybody else reads the last look and nobody asks a driver twice."""

import asyncio
from collections.abc import Callable, Iterable

from rbee_runtime.devices import Inventory, Scan

SCAN_SECONDS = 3.0
"""With one tick of the supervisor, a device that is gone is fenced well within 10 s."""

FRESH_SECONDS = 0.5
"""A look that young answers a caller who wants to know now."""


class Scanning:
    """Owns the scans; `workers` gives the pids of our workers, `changed` is called after each look."""

    def __init__(
        self,
        inventory: Inventory,
        *,
        workers: Callable[[], Iterable[int]],
        changed: Callable[[], None],
        clock: Callable[[], float],
        period: float = SCAN_SECONDS,
    ) -> None:
        self._inventory = inventory
        self._workers = workers
        self._changed = changed
        self._clock = clock
        self._period = period
        self._at = 0.0
        self._running: asyncio.Task[Scan] | None = None
        self.latest: Scan | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await self.now()
                await asyncio.sleep(self._period)
        finally:
            if self._running is not None:
                self._running.cancel()
                await asyncio.gather(self._running, return_exceptions=True)

    async def now(self) -> Scan:
        """Return a look that is younger than half a second; callers at one time share it."""
        if self.latest is not None and self._clock() - self._at < FRESH_SECONDS:
            return self.latest
        if self._running is None:
            self._running = asyncio.create_task(self._look())
        return await asyncio.shield(self._running)

    async def known(self) -> Scan:
        """Return the last look, or the first one."""
        return self.latest if self.latest is not None else await self.now()

    async def _look(self) -> Scan:
        try:
            found = await self._inventory.scan(tuple(self._workers()))
        finally:
            self._running = None
        self.latest, self._at = found, self._clock()
        self._changed()
        return found
