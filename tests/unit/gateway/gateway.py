"""A relay on a real socket, with a gate that hands out the given workers in order."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import httpx
from starlette.responses import PlainTextResponse

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.exchange import Exchange, Outcome
from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.peers import Peers
from rbee_runtime.gateway.relay import Relay
from rbee_runtime.gateway.routes import HOT
from rbee_runtime.gateway.seam import Ask, Door, Limits
from rbee_runtime.gateway.upstream import Pool
from rbee_runtime.server import HttpServer, bind

PATIENT = Limits(body_seconds=60, first_byte=60, idle=60, stall=60, pings=60)
"""Limits that a busy machine does not reach; a test of one sets that one."""

STREAM = {"model": "m", "stream": True}
PLAIN = {"model": "m"}
ASK = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n" + b'{"model":"m"}'


def limits(**changes: float) -> Limits:
    return replace(PATIENT, **changes)  # type: ignore[arg-type]


@dataclass
class Slot:
    worker: str
    url: str
    gate: "Gate"

    @property
    def door(self) -> Door | None:
        return self.gate.door

    @property
    def revision(self) -> str:
        return self.gate.revisions.get(self.url, "r1")

    def settle(self, *, answered: bool, reached: bool = True) -> None:
        self.gate.settled.append((self.worker, answered))
        if not reached:
            self.gate.urls.remove(self.url)

    def spent(self, prompt: int, answer: int) -> None:
        self.gate.spent.append((prompt, answer))

    def release(self) -> None:
        self.gate.released.append(self.worker)


@dataclass
class Gate:
    urls: list[str]
    delay: float = 0.0
    refusal: RequestError | None = None
    budget: int = 100
    door: Door | None = None
    into_name: tuple[str, str] | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    pin: str = ""
    continued: bool = False
    revisions: dict[str, str] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    settled: list[tuple[str, bool]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    spent: list[tuple[int, int]] = field(default_factory=list)

    def into(self, model: str, authorization: str) -> "Gate":
        """Have the workers be servers that are not the fleet's own."""
        self.into_name = (model, authorization)
        return self

    def resolve(self, model: str) -> str:
        return self.aliases.get(model, model)

    def continues(self, model: str) -> bool:
        return self.continued

    def at_once(self, ask: Ask) -> Slot | None:
        return None if self.delay else self._slot(ask)

    async def lease(self, ask: Ask) -> Slot:
        await asyncio.sleep(self.delay)
        return self._slot(ask)

    def _slot(self, ask: Ask) -> Slot:
        self.asks.append(ask)
        if self.refusal is not None:
            raise self.refusal
        for url in self.urls:
            if url not in ask.tried and ask.revision in {"", self.revisions.get(url, "r1")}:
                return Slot(url, url, self)
        raise RequestError(503, "nobody left", retry_after=9)

    def may_retry(self) -> bool:
        self.budget -= 1
        return self.budget >= 0


@dataclass
class Desk:
    """Has each request of a known path relayed."""

    relay: Relay
    pin: str = ""
    leaving: bool = False

    def headers_for(self, front: Front) -> bytes:
        return b""

    def take(self, front: Front) -> Exchange | None:
        route = HOT.get(front.url)
        return self.relay.take(front, route, key="k", request_id="r", pin=self.pin) if route is not None else None


@dataclass
class Gateway:
    url: str
    gate: Gate
    relay: Relay
    pool: Pool
    client: httpx.AsyncClient
    outcomes: list[Outcome]

    def at(self, path: str) -> str:
        """Return the address of another route."""
        return "/".join(self.url.split("/")[:3]) + path

    async def post(self, body: object) -> httpx.Response:
        return await self.client.post(self.url, json=body)


@asynccontextmanager
async def gateway(
    gate: Gate, bounds: Limits = PATIENT, *, headers: bytes = b"", most: int = 1000
) -> AsyncIterator[Gateway]:
    pool = Pool(headers=headers, connect_seconds=60)
    outcomes: list[Outcome] = []
    relay = Relay(gate, pool, limits=bounds, over=outcomes.append)
    if gate.into_name is not None:
        gate.door = Door(pool, *gate.into_name)
    connection = partial(Front, desk=Desk(relay, gate.pin), peers=Peers(most, time.monotonic))
    server = HttpServer(PlainTextResponse("not relayed"), tls=None, drain_seconds=1, connection=connection)
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    try:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
            yield Gateway(url, gate, relay, pool, client, outcomes)
    finally:
        server.should_exit = True
        await serving
        pool.close()
