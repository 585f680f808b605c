"""Answers without an end: sent as their source goes on, ended when the client goes, stalls, or this process stops."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee_runtime.http_connection import ABORT

SSE = "text/event-stream"

STALL_SECONDS = 30.0
"""A client that takes nothing for so long is cut off; the bytes that wait for it are bounded by the transport."""

FIRST_SECONDS = 0.5
"""How long a source may take to refuse before the answer begins."""


class Parts(Protocol):
    """What an answer is made of; `aclose` gives back what it holds, whether or not a part was ever taken."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Let go of the source."""
        ...


class Stream(Response):
    """An answer in parts; `stopping` ends it from our side."""

    def __init__(
        self,
        parts: Parts,
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
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send(scope, receive, send)
        finally:
            await self._parts.aclose()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
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


class Holding:
    """Parts with what they hold open. A generator that never started would close nothing of it."""

    def __init__(self, parts: AsyncIterator[bytes], held: contextlib.AsyncExitStack) -> None:
        self._parts = parts
        self._held = held

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def aclose(self) -> None:
        """Let go of it."""
        await self._held.aclose()


async def begun(parts: AsyncGenerator[bytes, None]) -> Parts:
    """Return the same parts after a first moment, in which a source that refuses raises here."""
    first = asyncio.ensure_future(anext(parts))
    try:
        done, _ = await asyncio.wait({first}, timeout=FIRST_SECONDS)
    except asyncio.CancelledError:
        await _Begun(first, parts).aclose()
        raise
    if done and first.exception() is not None and not isinstance(first.exception(), StopAsyncIteration):
        first.result()
    return _Begun(first, parts)


class _Begun:
    """Parts of which the first was asked for; no generator, for the reason that `Holding` has."""

    def __init__(self, first: asyncio.Future[bytes], parts: AsyncGenerator[bytes, None]) -> None:
        self._first = first
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with contextlib.suppress(StopAsyncIteration):
            yield await self._first
            async for part in self._parts:
                yield part

    async def aclose(self) -> None:
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self._parts.aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
