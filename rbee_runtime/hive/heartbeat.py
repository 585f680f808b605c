"""Tells the queen how this host is: every few seconds, and at once when something changed."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import msgspec

from rbee_runtime import logs
from rbee_runtime.errors import LinkError
from rbee_runtime.hive.rhythm import Rhythm
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Heartbeat, HeartbeatAck, decode, encode

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
        answered: Callable[[str], None],
    ) -> None:
        self._link = link
        self._client = link.client(timeout=httpx.Timeout(DEADLINE_SECONDS), peer=Role.QUEEN, limits=KEPT)
        self._queen_url = queen_url.rstrip("/")
        self._compose = compose
        self._answered = answered
        self._rhythm = Rhythm(period)
        self._changed = asyncio.Event()
        self._said: str | None = None
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
                await self._send()
                await self._rhythm.wait(self._changed)
        finally:
            await self._client.aclose()

    async def _send(self) -> None:
        self._changed.clear()
        self._rhythm.begin()
        message, clocks = await self._compose(), ""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                answer = await self._client.post(
                    f"{self._queen_url}/api/v1/hives/{message.hive}/heartbeat",
                    content=encode(message),
                    headers={"content-type": "application/json"},
                )
            said = self._refusal(answer)
        except (httpx.HTTPError, LinkError, TimeoutError) as error:
            said = f"the queen at {self._queen_url} does not answer: {type(error).__name__} {error}".rstrip()
            clocks = self._link.doubt(error)
        self.failures += bool(said)
        self._rhythm.ended(good=not said)
        if said != self._said:
            report = logs.warning if said else logs.info
            report("queen_silent" if said else "queen_answers", queen=self._queen_url, detail=said + clocks)
        self._said = said

    def _refusal(self, answer: httpx.Response) -> str:
        """Return "" for an acknowledgement, else one sentence."""
        if answer.status_code != 200:
            return f"the queen refused a heartbeat: {answer.status_code} {answer.text[:200]}"
        try:
            self._answered(decode(answer.content, HeartbeatAck).queen)
        except msgspec.MsgspecError as error:
            return f"the queen answered a heartbeat with something else: {error}"
        return ""
