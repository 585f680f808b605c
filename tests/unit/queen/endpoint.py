"""The client endpoint of a queen that has no process of its own, on a real socket."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx

from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.peers import Peers
from rbee_runtime.gateway.relay import Relay
from rbee_runtime.gateway.upstream import Pool
from rbee_runtime.queen import admin
from rbee_runtime.queen.app import ClientApp
from rbee_runtime.queen.cors import Origins
from rbee_runtime.queen.desk import ClientDesk, Journal
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.lines import Lines
from rbee_runtime.queen.status import Phase, Status
from rbee_runtime.server import HttpServer, bind
from tests.unit.queen.states import Fixture


@asynccontextmanager
async def endpoint(
    q: Fixture, phase: Phase = Phase.READY, *, pages: tuple[str, ...] = ()
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve as a queen does and yield a client of it."""
    lines = Lines(q.controller, q.controller.roster, queue_wait=0.0, clock=q.clock)
    pool = Pool()
    journal = Journal(asyncio.get_running_loop().call_later)
    relay = Relay(lines, pool, over=journal.over)
    try:
        async with served(q, relay, lines, phase, pages=pages) as url, httpx.AsyncClient(base_url=url) as client:
            yield client
    finally:
        journal.flush()
        pool.close()


@asynccontextmanager
async def served(
    q: Fixture, relay: Relay, lines: Lines, phase: Phase = Phase.READY, *, pages: tuple[str, ...] = ()
) -> AsyncIterator[str]:
    """Serve what is relayed, and all that is not, and yield the address."""
    status, origins = Status(1, "d1", phase), Origins(pages)
    desk = ClientDesk(q.keys, relay, status, origins, lines.ratelimit_headers)
    own = admin.build(q.controller, HiveCalls(q.controller, q.client, signature="1-0123456789abcdef"), q.usage)
    app = ClientApp(q.controller, own, status, origins)
    server = HttpServer(
        app, tls=None, drain_seconds=1, connection=partial(Front, desk=desk, peers=Peers(1000, time.monotonic))
    )
    listener = bind("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
