"""Ask workers themselves while their hive is silent: losing the control path must not cut the data path."""

import asyncio

import httpx

from rbee_runtime import logs
from rbee_runtime.errors import LinkError
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.membership import Presence

PROBE_SECONDS = 5.0
_TIMEOUT = 2.0


class Probes:
    """One task that probes the workers of silent hives."""

    def __init__(self, controller: Controller, client: httpx.AsyncClient) -> None:
        self._controller = controller
        self._client = client

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self.once()

    async def once(self) -> None:
        """Probe each worker of a silent hive once and tell routing."""
        controller = self._controller
        presence = controller.membership.presence
        doubtful = {
            entry.id: f"{controller.url(entry)}/ready"
            for entry in controller.assignments.values()
            if entry.port and presence(entry.hive) in (Presence.SUSPECT, Presence.LOST)
        }
        verdicts = await asyncio.gather(*(self._answers(url) for url in doubtful.values()))
        silent = {worker for worker, answers in zip(doubtful, verdicts, strict=True) if not answers}
        if silent != controller.unreachable:
            logs.warning("workers of silent hives", probed=len(doubtful), unreachable=",".join(sorted(silent)))
            controller.unreachable = silent
            controller.publish()

    async def _answers(self, url: str) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT):
                return (await self._client.get(url)).status_code == 200
        except (httpx.HTTPError, LinkError, TimeoutError):
            return False
