"""What a client of a gateway sees of one answer."""

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.beside.workers import MODEL

PLAIN: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, Any] = {**PLAIN, "stream": True}
BODIES = {"stream": STREAM, "whole": PLAIN}
LONGEST_WAIT = 60
"""Seconds of Retry-After that official clients honour."""


@dataclass
class Seen:
    """One answer: its lines and when each came; `broke` is set if the connection did."""

    status: int = 0
    retry_after: str = ""
    lines: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    broke: str = ""

    @property
    def seconds(self) -> float:
        """Return how long all of it took."""
        return self.ended - self.began

    @property
    def errors(self) -> int:
        """Return how many error events it has."""
        return sum(line.startswith('data: {"error"') for line in self.lines)

    @property
    def tokens(self) -> int:
        """Return how many events have text so far."""
        return sum("harbour" in line for line in self.lines)

    @property
    def done(self) -> bool:
        """Say whether it is all of an answer: a stream up to its proper end, or a document."""
        ends = self.lines[-1:] == ["data: [DONE]"] or (len(self.lines) == 1 and _is_answer(self.lines[0]))
        return self.status == 200 and ends and not self.errors and not self.broke

    @property
    def told(self) -> bool:
        """Say whether a stream that did not come to its end says so, once."""
        return self.status == 200 and self.errors == 1 and "data: [DONE]" not in self.lines

    @property
    def refused(self) -> bool:
        """Say whether it is a refusal that says when to come back, as official clients understand it."""
        waits = self.retry_after.isdigit() and 1 <= int(self.retry_after) <= LONGEST_WAIT
        return self.status in {429, 503} and waits


def _is_answer(line: str) -> bool:
    try:
        return bool(json.loads(line)["choices"])
    except (ValueError, KeyError, TypeError):
        return False


async def ask(client: httpx.AsyncClient, body: dict[str, Any], seen: Seen | None = None) -> Seen:
    """Read one answer to its end, whichever that is; `seen` can be looked at meanwhile."""
    seen = Seen() if seen is None else seen
    seen.began = time.monotonic()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            seen.status, seen.retry_after = answer.status_code, answer.headers.get("retry-after", "")
            async for line in answer.aiter_lines():
                if line:
                    seen.lines.append(line)
                    seen.times.append(time.monotonic())
    except httpx.HTTPError as error:
        seen.broke = type(error).__name__
    finally:
        seen.ended = time.monotonic()
    return seen


async def leave_at(client: httpx.AsyncClient, body: dict[str, Any], events: int) -> None:
    """Hang up after so many events of a stream."""
    left = events
    with contextlib.suppress(httpx.HTTPError):
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                left -= line.startswith("data: ")
                if left <= 0:
                    return
