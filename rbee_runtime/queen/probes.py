"""Ask workers themselves while their hive is silent: losing the control path must not cut the data path."""

import asyncio
import time

import httpx

from rbee_runtime import logs
from rbee_runtime.errors import LinkError
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.records import Assignment

PROBE_SECONDS = 5.0
EAGER_SECONDS = 1.0
"""While a worker whose hive is not silent refuses connections: requests may wait for it."""

_TIMEOUT = 2.0
MOST_AT_ONCE = 20
"""Thousands that wait for a connection at once would keep the queen busy with themselves."""

PROBE_TIMEOUT = httpx.Timeout(None, connect=_TIMEOUT)
PROBE_LIMITS = httpx.Limits(max_keepalive_connections=0)
"""No connection is kept: to the workers of half a fleet that is cut off there would be thousands."""


class Probes:
    """One task that probes the workers of silent hives, and those that refused a connection."""

    def __init__(self, controller: Controller, client: httpx.AsyncClient) -> None:
        self._controller = controller
        self._client = client
        self._asking = asyncio.Semaphore(MOST_AT_ONCE)

    async def run(self) -> None:
        """Probe until cancelled."""
        due = time.monotonic() + PROBE_SECONDS
        while True:
            await asyncio.sleep(EAGER_SECONDS)
            if self._eager() or time.monotonic() >= due:
                await self.once()
                due = time.monotonic() + PROBE_SECONDS

    async def once(self) -> None:
        """Probe each doubtful worker once and tell routing."""
        controller = self._controller
        doubtful = {
            entry.id: f"{controller.url(entry)}/ready"
            for entry in controller.assignments.values()
            if entry.port and (self._silent(entry) or entry.id in controller.unreachable)
        }
        verdicts = await asyncio.gather(*(self._answers(url) for url in doubtful.values()))
        failed = {worker for worker, answers in zip(doubtful, verdicts, strict=True) if not answers}
        unreachable = ((controller.unreachable - doubtful.keys()) | failed) & controller.assignments.keys()
        if unreachable != controller.unreachable:
            logs.warning("workers probed", probed=len(doubtful), unreachable=",".join(sorted(unreachable)))
            controller.unreachable = unreachable
            controller.publish()

    def _eager(self) -> bool:
        assignments = self._controller.assignments
        doubted = (assignments[worker] for worker in self._controller.unreachable if worker in assignments)
        return any(not self._silent(entry) for entry in doubted)

    def _silent(self, entry: Assignment) -> bool:
        return self._controller.membership.presence(entry.hive) in (Presence.SUSPECT, Presence.LOST)

    async def _answers(self, url: str) -> bool:
        try:
            async with self._asking, asyncio.timeout(_TIMEOUT):
                return (await self._client.get(url)).status_code == 200
        except (httpx.HTTPError, LinkError, TimeoutError):
            return False
