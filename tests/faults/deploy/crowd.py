"""Many people who ask at a steady pace and read their answers as streams, in a thread with a loop of its own."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.e2e.fleets import Fleet
from tests.faults.deploy.trio import MODEL, TOKENS

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)
WAIT_SECONDS = 60.0


@dataclass
class Crowd:
    """New streams, so many a second, until the block ends; `failures` holds each that did not come whole."""

    fleet: Fleet
    per_second: float
    started: int = 0
    whole: int = 0
    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * WAIT_SECONDS)

    def figures(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
        return {
            "streams": self.started,
            "whole": self.whole,
            "failed or cut": len(self.failures),
            "longest wait for a first token, s": round(max(self.waits, default=0.0), 1),
        }

    async def _ask(self) -> None:
        headers = {"authorization": f"Bearer {self.fleet.api_key}"}
        url = f"{self.fleet.url}/v1/chat/completions"
        begun = time.monotonic()
        async with (
            httpx.AsyncClient(headers=headers, trust_env=False, timeout=WAIT_SECONDS, limits=LIMITS) as client,
            asyncio.TaskGroup() as streams,
        ):
            while not self._stop.is_set():
                self.started += 1
                streams.create_task(self._read(client, url))
                await asyncio.sleep(max(0.0, begun + self.started / self.per_second - time.monotonic()))

    async def _read(self, client: httpx.AsyncClient, url: str) -> None:
        begun = time.monotonic()
        lines: list[str] = []
        question = {"model": MODEL, "messages": [{"role": "user", "content": "count"}], "stream": True}
        try:
            async with client.stream("POST", url, json=question) as answer:
                async for text in answer.aiter_lines():
                    if text.startswith("data: "):
                        if not lines:
                            self.waits.append(time.monotonic() - begun)
                        lines.append(text.removeprefix("data: "))
            problem = wrong(answer.status_code, lines)
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            self.failures.append(f"after {time.monotonic() - begun:.1f} s: {problem}")
        else:
            self.whole += 1


def wrong(status: int, lines: list[str]) -> str:
    """Return why a stream is not whole, "" if it is."""
    if status != 200 or not lines or lines[-1] != "[DONE]":
        return f"status {status}, {len(lines)} events, the last {lines[-1:]}"
    choices = [choice for text in lines[:-1] for choice in json.loads(text).get("choices", ())]
    words = "".join(choice["delta"].get("content") or "" for choice in choices).split()
    finish = next((choice["finish_reason"] for choice in choices if choice.get("finish_reason")), None)
    return "" if (len(words), finish) == (TOKENS, "stop") else f"{len(words)} tokens, finish {finish}"
