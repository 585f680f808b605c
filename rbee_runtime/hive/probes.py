"""Asks running workers over HTTP how they are, each on its own schedule, none able to hold up another."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rbee_runtime.errors import LinkError
from rbee_runtime.hive.health import Answer, Health, observe
from rbee_runtime.hive.worker_calls import Reply, WorkerCallError, WorkerCalls
from rbee_runtime.link import Link

PROBE_SECONDS = 2.0
EAGER_SECONDS = 0.25
"""Between probes of a worker that is not ready yet, so that a fast start is noticed fast."""

INFO_SECONDS = 6.0
"""Between looks at `/info` of a worker that is ready; its requests in flight matter at once only while it drains."""

DEADLINE_SECONDS = 2.0
LATE_FACTOR = 2.0
"""A probe that failed so many deadlines after it began was not ended in time by us."""


@dataclass
class _Target:
    url: str
    due: float
    info_due: float = 0.0
    pending: asyncio.Task[None] | None = None


class Prober:
    """Owns the health of every running worker; `changed` is called when one becomes ready or stops being so."""

    def __init__(self, link: Link, *, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._calls = WorkerCalls(link)
        self._clock = clock
        self._changed = changed
        self._targets: dict[str, _Target] = {}
        self.health: dict[str, Health] = {}

    def aim(self, urls: Mapping[str, str]) -> None:
        """Probe exactly these workers (base URL by id) from now on; a changed URL is another process."""
        for worker in [name for name, target in self._targets.items() if urls.get(name) != target.url]:
            self.drop(worker)
        for worker, url in urls.items():
            self._targets.setdefault(worker, _Target(url, self._clock()))

    def drop(self, worker: str) -> None:
        """Forget what was heard of a worker, because its process is or will be another one."""
        target = self._targets.pop(worker, None)
        self.health.pop(worker, None)
        if target is not None:
            self._calls.drop(target.url)
            if target.pending is not None:
                target.pending.cancel()

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                self._start_due()
                await asyncio.sleep(EAGER_SECONDS)
        finally:
            for worker in list(self._targets):
                self.drop(worker)
            self._calls.close()

    def _start_due(self) -> None:
        now = self._clock()
        for worker, target in self._targets.items():
            if target.due <= now and (target.pending is None or target.pending.done()):
                target.due = now + PROBE_SECONDS
                target.pending = asyncio.create_task(self._probe(worker, target))

    async def _probe(self, worker: str, target: _Target) -> None:
        begun = self._clock()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                answer = await self._ask(target)
        except (OSError, WorkerCallError, LinkError, ValueError) as error:
            if self._clock() - begun > LATE_FACTOR * DEADLINE_SECONDS:
                # It was this process, or the whole host, that stood still: that says nothing about the worker.
                return
            said = f"{target.url} does not answer: {type(error).__name__} {error}".rstrip()
            answer = Answer(reached=False, said=said)
        before = self.health.get(worker)
        after = observe(before, answer, now=self._clock())
        self.health[worker] = after
        if not after.ready and after.silent_since is None:
            target.due = self._clock() + EAGER_SECONDS
        if (before is not None and before.ready, before is None or before.spec) != (after.ready, after.spec):
            self._changed()

    async def _ask(self, target: _Target) -> Answer:
        ready = await self._calls.get(target.url, "/ready")
        facts: dict[str, Any] = {}
        if ready.status != 200 or target.info_due <= self._clock():
            info = await self._calls.get(target.url, "/info")
            facts = _mapping(info) if info.status == 200 else {}
            target.info_due = self._clock() + INFO_SECONDS
        return Answer(
            reached=True,
            ready=ready.status == 200,
            spec=str(facts.get("spec", "")),
            in_flight=_count(facts.get("in_flight")),
            loaded=_share(facts.get("loaded")),
            slots=_count(facts.get("slots")),
            context=_count(facts.get("context")),
            said="" if ready.status == 200 else _sentence(ready),
        )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _share(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _mapping(reply: Reply) -> dict[str, Any]:
    found = json.loads(reply.body)
    return found if isinstance(found, dict) else {}


def _sentence(reply: Reply) -> str:
    try:
        body = _mapping(reply)
        return str(body.get("detail") or body.get("error", {}).get("message") or f"/ready says {reply.status}")
    except (ValueError, AttributeError):
        return f"/ready says {reply.status}"
