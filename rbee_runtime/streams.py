"""Answers without an end: sent as their source goes on, ended when the client goes, stalls, or this process stops."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee_runtime.server import ABORT

STALL_SECONDS = 30.0
"""A client that takes nothing for so long is cut off; the bytes that wait for it are bounded by the transport."""

FIRST_SECONDS = 0.5
"""How long a source may take to refuse before the answer begins."""


class Stream(Response):
    """An answer in parts; `stopping` ends it from our side."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        *,
        stopping: asyncio.Event,
        media_type: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(None, status, {"cache-control": "no-store", **(headers or {})}, media_type)
        # The empty body that the base class took the length of is not what is sent.
        if "content-length" not in (headers or {}):
            self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._parts = parts
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one side has enough."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pump = asyncio.create_task(self._pump(send))
        ends = [asyncio.create_task(_gone(receive)), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait({pump, *ends}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = {pump, *ends}
            while not all(task.done() for task in tasks):
                # A source may get what it waits for in the very moment of a cancel, and go on.
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1.0)
            await self._parts.aclose()
        if not pump.cancelled() and pump.exception() is not None:
            # An answer that broke off must not look like one that ended.
            abort = scope.get(ABORT)
            if abort is not None:
                abort()
        elif pump.cancelled() and self._stopping.is_set():
            await send({"type": "http.response.body", "body": b""})

    async def _pump(self, send: Send) -> None:
        async for part in self._parts:
            async with asyncio.timeout(STALL_SECONDS):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def begun(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Return the same parts after a first moment, in which a source that refuses raises here."""
    first = asyncio.ensure_future(anext(parts))
    try:
        done, _ = await asyncio.wait({first}, timeout=FIRST_SECONDS)
    except asyncio.CancelledError:
        await _drop(first, parts)
        raise
    if done and first.exception() is not None and not isinstance(first.exception(), StopAsyncIteration):
        first.result()
    return _resumed(first, parts)


async def _resumed(first: asyncio.Future[bytes], parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        with contextlib.suppress(StopAsyncIteration):
            yield await first
            async for part in parts:
                yield part
    finally:
        await _drop(first, parts)


async def _drop(first: asyncio.Future[bytes], parts: AsyncGenerator[bytes, None]) -> None:
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await parts.aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
