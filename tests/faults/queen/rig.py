"""The queen's client endpoint before workers that do as they are told, on real sockets and the real clock."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec

from rbee_runtime.gateway.exchange import Outcome
from rbee_runtime.gateway.relay import Relay
from rbee_runtime.gateway.seam import Limits
from rbee_runtime.gateway.upstream import Pool
from rbee_runtime.protocol import WorkerReport
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.lines import Lines
from rbee_runtime.queen.records import Scope
from rbee_runtime.states import Observed
from tests.unit.gateway.upstream import STREAM_HEAD, Call, Script, Upstream, worker
from tests.unit.queen.endpoint import served
from tests.unit.queen.states import Fixture, fleet, model

PLAIN: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, Any] = {**PLAIN, "stream": True}


@dataclass
class Rig:
    """A client with a key, the workers behind the queen, and the queen's own parts."""

    client: httpx.AsyncClient
    key: str
    workers: list[Upstream]
    relay: Relay
    lines: Lines
    outcomes: list[Outcome]
    keys: Keys

    async def ask(self, body: dict[str, Any] = PLAIN) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=body)

    @property
    def port(self) -> int:
        """Return where the queen's client endpoint listens."""
        return self.client.base_url.port or 0

    @property
    def calls(self) -> int:
        """Return how many requests have reached workers."""
        return sum(len(each.calls) for each in self.workers)


@asynccontextmanager
async def rig(
    folder: Path,
    scripts: Sequence[Script],
    *,
    slots: int = 64,
    wait: float = 60.0,
    bounds: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Rig]:
    """Serve model m by one worker for each script; the queen's own waits follow `clock`."""
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(script)) for script in scripts]
        q = _fleet_of(folder, workers, slots, clock)
        stack.callback(q.store.close)
        lines = Lines(q.controller, q.controller.roster, queue_wait=wait, clock=clock)
        lines.doubt, q.controller.on_change = q.controller.doubt, lines.changed
        pool = Pool()
        stack.callback(pool.close)
        outcomes: list[Outcome] = []
        relay = Relay(lines, pool, limits=bounds or Limits(), over=outcomes.append)
        url = await stack.enter_async_context(served(q, relay, lines))
        sweeping = asyncio.create_task(lines.run())
        stack.callback(sweeping.cancel)
        key = q.keys.create("t", [Scope.INFER])[1]
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=url,
                headers={"authorization": f"Bearer {key}"},
                timeout=60,
                limits=httpx.Limits(max_connections=None),
            )
        )
        yield Rig(client, key, workers, relay, lines, outcomes, q.keys)


def _fleet_of(folder: Path, workers: Sequence[Upstream], slots: int, clock: Callable[[], float]) -> Fixture:
    """Return a queen's state in which one hive reports a ready worker at each address."""
    declared = fleet(model(slots=slots, replicas_min=len(workers)), hives=("a",))
    q = Fixture(folder / "queen", declared, clock=cast("Any", clock))
    q.beat("a")
    q.beat("a")
    ports = dict(zip(q.workers("a"), (int(each.url.rsplit(":", 1)[1]) for each in workers), strict=True))
    seen = q.report("a", Observed.READY)
    moved = tuple(_at(report, ports[report.id]) for report in seen.workers)
    q.controller.heartbeat(q.report("a", Observed.READY, workers=moved))
    return q


def _at(report: WorkerReport, port: int) -> WorkerReport:
    return msgspec.structs.replace(report, port=port)


def bounds(**changes: float) -> Limits:
    """Return the limits of a queen with some of them changed."""
    return replace(Limits(), **changes)  # type: ignore[arg-type]


def piece(text: str) -> str:
    """Return one chunk of a chat answer."""
    return json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]})


def streaming(tokens: int, *, every: float = 0.0) -> Script:
    """Return a worker that streams so many tokens with a pause before each."""

    async def script(call: Call) -> None:
        await call.write(STREAM_HEAD)
        for index in range(tokens):
            await asyncio.sleep(every)
            await call.events(piece(f"t{index} "))
        await call.events("[DONE]")
        await call.end()

    return script


async def whole(call: Call) -> None:
    """Answer at once, not streamed."""
    said = {"object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hi"}}]}
    await call.json(200, json.dumps(said).encode())


def errors_of(text: str) -> list[dict[str, Any]]:
    """Return the error events of a stream."""
    lines = (line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith('data: {"error"'))
    return [json.loads(line)["error"] for line in lines]
