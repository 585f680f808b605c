"""An HTTP transport for many servers: each has a pool of its own.

One pool of httpcore goes through all of its connections, with a system call for each idle one, whenever a request
begins or ends (encode/httpcore#1035): with a connection to each of a thousand hosts that was more than half of what the
queen did while they joined. Beside that, what goes wrong between requests of one pool stays with one server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import islice
from typing import cast

import httpx

IDLE_SECONDS = 30.0
"""After so long without a request a server's pool is closed: nothing else would close what idles in it."""

SWEEP_SECONDS, MOST_AT_ONCE = 1.0, 16
"""How often is looked for such pools, and how many are closed then: a thousand at once would hold up everybody."""

Origin = tuple[str, str, int | None]
"""Scheme, host and port."""


@dataclass
class _Pool:
    """The connections to one server: `open` answers are not at their end, since `idle` there was none."""

    transport: httpx.AsyncBaseTransport
    open: int = 0
    idle: float = 0.0


class PerOrigin(httpx.AsyncBaseTransport):
    """Passes each request to the transport of its server, which `make` makes."""

    def __init__(self, make: Callable[[], httpx.AsyncBaseTransport], *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self._pools: dict[Origin, _Pool] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def servers(self) -> int:
        """Return how many servers have a pool."""
        return len(self._pools)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        pool = self._of((request.url.scheme, request.url.host, request.url.port))
        pool.open += 1
        try:
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            self._ended(pool)
            raise
        response.stream = _Watched(cast("httpx.AsyncByteStream", response.stream), lambda: self._ended(pool))
        return response

    async def aclose(self) -> None:
        """Close all pools."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        pools, self._pools = [*self._pools.values()], {}
        await asyncio.gather(*self._closing, *(pool.transport.aclose() for pool in pools))

    def _of(self, origin: Origin) -> _Pool:
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = _Pool(self._make())
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._close_idle)
        return pool

    def _ended(self, pool: _Pool) -> None:
        pool.open -= 1
        pool.idle = asyncio.get_running_loop().time()

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time() - self._idle_seconds
        idle = (origin for origin, pool in self._pools.items() if not pool.open and pool.idle <= last)
        for origin in [*islice(idle, MOST_AT_ONCE)]:
            task = loop.create_task(self._pools.pop(origin).transport.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._sweep = loop.call_later(SWEEP_SECONDS, self._close_idle) if self._pools else None


class _Watched(httpx.AsyncByteStream):
    """The body of an answer that says, once, when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended: Callable[[], None] | None = ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        """Give the connection back."""
        try:
            await self._stream.aclose()
        finally:
            ended, self._ended = self._ended, None
            if ended is not None:
                ended()
