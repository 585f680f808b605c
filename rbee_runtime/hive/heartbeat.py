"""Tells the queen how this host is: every few seconds, and at once when something changed."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

import httpx
import msgspec

from rbee_runtime import logs
from rbee_runtime.errors import LinkError
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Heartbeat, HeartbeatAck, decode, encode

JITTER = 0.1
"""Keeps the hives of a fleet that starts at once from reporting at once for ever."""

DEBOUNCE_SECONDS = 0.05
KEPT = httpx.Limits(keepalive_expiry=60.0)
"""The connection outlives the period and is closed before the queen would: a TLS handshake costs it ten heartbeats."""

DEADLINE_SECONDS = 4.0
"""Shorter than the period, so that one slow answer does not hide the next heartbeat."""


class Heartbeats:
    """Sends heartbeats until cancelled; whether the queen answers is logged on change only."""

    def __init__(
        self,
        link: Link,
        queen_url: str,
        compose: Callable[[], Awaitable[Heartbeat]],
        *,
        period: float,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._client = link.client(timeout=httpx.Timeout(DEADLINE_SECONDS), peer=Role.QUEEN, limits=KEPT)
        self._queen_url = queen_url.rstrip("/")
        self._compose = compose
        self._period = period
        self._jitter = jitter
        self._clock = clock
        self._changed = asyncio.Event()
        self._said: str | None = None
        self._lost = 0
        self.failures = 0

    @property
    def queen(self) -> str:
        """Return how the queen is, in a word or two."""
        return {None: "not asked yet", "": "reachable"}.get(self._said, "not reachable")

    def changed(self) -> None:
        """Send a heartbeat at once, together with what else changes within the next moment."""
        self._changed.set()

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                begun = self._clock()
                await self._send()
                await self._wait(begun)
        finally:
            await self._client.aclose()

    async def _wait(self, begun: float) -> None:
        # From one beginning to the next: else one that is lost would be a silence of three periods. Of several in a row
        # the queen is busy or away, and she has the longer pause: a thousand hives that hurry keep her busy.
        due = (begun if self._lost <= 1 else self._clock()) + self._period * (1 + JITTER * (2 * self._jitter() - 1))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - self._clock())):
                await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)

    async def _send(self) -> None:
        self._changed.clear()
        message, clocks = await self._compose(), ""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                answer = await self._client.post(
                    f"{self._queen_url}/api/v1/hives/{message.hive}/heartbeat",
                    content=encode(message),
                    headers={"content-type": "application/json"},
                )
            said = _refusal(answer)
        except (httpx.HTTPError, LinkError, TimeoutError) as error:
            said = f"the queen at {self._queen_url} does not answer: {type(error).__name__} {error}".rstrip()
            clocks = self._link.doubt(error)
        self.failures += bool(said)
        self._lost = self._lost + 1 if said else 0
        if said != self._said:
            report = logs.warning if said else logs.info
            report("queen_silent" if said else "queen_answers", queen=self._queen_url, detail=said + clocks)
        self._said = said


def _refusal(answer: httpx.Response) -> str:
    """Return "" for an acknowledgement, else one sentence."""
    if answer.status_code != 200:
        return f"the queen refused a heartbeat: {answer.status_code} {answer.text[:200]}"
    try:
        decode(answer.content, HeartbeatAck)
    except msgspec.MsgspecError as error:
        return f"the queen answered a heartbeat with something else: {error}"
    return ""
