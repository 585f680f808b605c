"""What happened, in order: a bounded log that readers follow by id; queen and hive have one each.

An id is `<incarnation>-<n>`. A reader that comes back with one gets what it missed; if that is no longer known (the
hive restarted, or too much happened) a `reset` event comes first: read the state again. Events carry whole states,
so that replaying some twice does no harm.
"""

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import StrEnum

import msgspec

from rbee_runtime.protocol import Event

KEEP = 2048
"""Some hours of an ordinary host, or a minute of thirty crashing workers."""

KEEP_ALIVE_SECONDS = 15.0
"""Shorter than what proxies and firewalls wait before they forget a silent connection."""

_ID = re.compile(r"([0-9A-Za-z]{1,64})-([0-9]{1,15})")
_LONGEST_ID = 100

RESET = "reset"
"""Kind of the event that tells a reader to read the state again."""


class EventLog:
    """The last `keep` events of one incarnation. The ring is the only buffer: a reader that falls behind it ends."""

    def __init__(
        self,
        incarnation: str,
        *,
        clock: Callable[[], float] = time.time,
        keep: int = KEEP,
        keep_alive: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.incarnation = incarnation
        self._clock = clock
        self._keep_alive = keep_alive
        self._held: deque[Event] = deque(maxlen=keep)
        self._last = 0
        self._news = asyncio.Event()
        self.counts: dict[str, int] = {}
        self.readers = 0

    def publish(self, kind: StrEnum, subject: str = "", **data: object) -> Event:
        """Add one event; `data` are plain JSON values."""
        self._last += 1
        event = Event(id=self._last, time=round(self._clock(), 3), kind=kind.value, subject=subject, data=data)
        self._held.append(event)
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        self._news.set()
        self._news = asyncio.Event()
        return event

    def held(self) -> tuple[Event, ...]:
        """Return what is held, oldest first."""
        return tuple(self._held)

    def name(self, event: Event) -> str:
        """Return the id under which a reader comes back."""
        return f"{self.incarnation}-{event.id}"

    async def follow(self, last: str = "") -> AsyncGenerator[Event | None, None]:
        """Yield events after `last`, or from now on if it is empty; None when nothing happened for a while.

        Ends when the reader took so long that what comes next is gone; it may come back with its last id.
        """
        at = self._last if not last else self._place(last)
        if at is None:
            at = self._held[0].id - 1 if self._held else self._last
            yield Event(id=at, time=round(self._clock(), 3), kind=RESET)
        while at >= self._oldest() - 1:
            news = self._news
            batch = [event for event in self._held if event.id > at] if at < self._last else []
            for event in batch:
                at = event.id
                yield event
            if not batch:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._keep_alive):
                        await news.wait()
                if at == self._last:
                    yield None

    def _oldest(self) -> int:
        return self._held[0].id if self._held else self._last + 1

    def _place(self, last: str) -> int | None:
        """Return the number in an id of ours that can be continued, else None."""
        found = _ID.fullmatch(last)
        if found is None or found[1] != self.incarnation:
            return None
        number = int(found[2])
        return number if self._oldest() - 1 <= number <= self._last else None


def as_sse(log: EventLog, event: Event | None) -> bytes:
    """Return one event, or a comment that keeps the connection alive, as server-sent text."""
    if event is None:
        return b": still here\n\n"
    return f"id: {log.name(event)}\nevent: {event.kind}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()


async def as_stream(log: EventLog, last: str) -> AsyncGenerator[bytes, None]:
    """Yield server-sent text for one reader that comes back with the id `last`, or for the first time with none."""
    log.readers += 1
    try:
        # At once, so that the reader knows that it is connected.
        yield as_sse(log, None)
        async with aclosing(log.follow(last[:_LONGEST_ID])) as found:
            async for event in found:
                yield as_sse(log, event)
    finally:
        log.readers -= 1
