"""Workers that do as they are told, on real sockets: what each does next is set from outside, while it runs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.gateway import answers
from benchmarks.gateway.answers import Form
from tests.unit.gateway.upstream import STREAM_HEAD, Call, Script, Upstream, drop, worker

MODEL = "bench-a"


class Told:
    """One worker: its address, what it does with a request, and the requests that it has had since it was told that."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[Call] = []
        self.open = 0
        self.peak = 0
        self._script: Script = good
        self._upstream: Upstream | None = None

    def does(self, script: Script) -> None:
        """Do this with every request from now on."""
        self._script = script
        self.calls.clear()
        self.peak = self.open

    @property
    def hung_up(self) -> asyncio.Event:
        """Return what is set once a caller closes a connection on which a request was."""
        if self._upstream is None:
            raise AssertionError("the worker has not begun")
        return self._upstream.closed

    async def answer(self, call: Call) -> None:
        """Do what was told; questions after health and models have one answer, whatever it is."""
        if call.head.startswith(b"GET "):
            await call.json(200, b'{"status": "ok", "object": "list", "data": [{"id": "%s"}]}' % MODEL.encode())
            return
        self.calls.append(call)
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            await self._script(call)
        finally:
            self.open -= 1

    def die(self) -> None:
        """Break every connection with a request on it, and each that comes."""
        under_way = [*self.calls]
        self.does(drop)
        for call in under_way:
            call.drop()

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Told"]:
        """Listen for the block."""
        async with worker(self.answer) as self._upstream:
            self.port = int(self._upstream.url.rpartition(":")[2])
            yield self


@asynccontextmanager
async def told(count: int) -> AsyncIterator[Sequence[Told]]:
    """Run so many workers for the block."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Told().up()) for _ in range(count)]


def streaming(tokens: int, *, every: float = 0.0) -> Script:
    """Return a worker that streams so many tokens with a pause before each."""

    async def script(call: Call) -> None:
        await call.write(STREAM_HEAD)
        for event in answers.events(tokens):
            await asyncio.sleep(every)
            await call.chunk(event)
        await call.end()

    return script


def is_stream(call: Call) -> bool:
    """Say whether a request asks for a stream."""
    return bool(json.loads(call.body).get("stream"))


async def good(call: Call) -> None:
    """Answer at once, as the request wants it."""
    if is_stream(call):
        await streaming(3)(call)
    else:
        await call.json(200, answers.body_of(Form(chunks=3)))


async def busy(call: Call) -> None:
    """Refuse."""
    await call.json(503, b'{"error": {"message": "overloaded", "type": "server_error"}}')


async def half_closed(call: Call) -> None:
    """Begin a stream and close it in the middle."""
    await call.write(STREAM_HEAD)
    await call.chunk(answers.events(3)[0])
    call.writer.write_eof()


async def bad_json(call: Call) -> None:
    """Send half of a document as a whole one."""
    await call.json(200, b'{"choices": [')


async def no_end(call: Call) -> None:
    """End a stream in good order before the answer has its end."""
    await call.write(STREAM_HEAD)
    await call.chunk(answers.events(3)[0])
    await call.end()


def trickling(every: float) -> Script:
    """Return a worker that sends a byte now and then that makes no event and no document, for ever."""

    async def script(call: Call) -> None:
        head = STREAM_HEAD if is_stream(call) else STREAM_HEAD.replace(b"text/event-stream", b"application/json")
        await call.write(head)
        while True:
            await call.chunk(b"x")
            await asyncio.sleep(every)

    return script
