"""Endless answers: whatever ends them and whenever, their source is let go."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message

from rbee_runtime.streams import Holding, Stream, begun


class Followed:
    """A source that waits for its next part, and notes that it was let go."""

    def __init__(self) -> None:
        self.open = False

    async def parts(self) -> AsyncGenerator[bytes, None]:
        self.open = True
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            self.open = False


async def receive() -> Message:
    await asyncio.Event().wait()
    return {}


async def test_what_parts_hold_is_let_go_though_none_was_taken() -> None:
    """An answer that is passed on gives back its connection and its place, even if its client is gone at once."""
    held = AsyncExitStack()
    freed: list[str] = []
    held.callback(freed.append, "connection")

    async def send(_: Message) -> None:
        raise asyncio.CancelledError

    stream = Stream(Holding(Followed().parts(), held), stopping=asyncio.Event(), media_type="text/plain")
    with pytest.raises(asyncio.CancelledError):
        await stream({"type": "http"}, receive, send)
    assert freed == ["connection"]


@pytest.mark.parametrize("where", ["before its start", "on its way"])
async def test_a_cancelled_answer_lets_go_of_its_source(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A source that began to follow a log or to open a file ends, even if no part of it was ever asked for."""
    monkeypatch.setattr("rbee_runtime.streams.FIRST_SECONDS", 0.01)
    followed, sending = Followed(), asyncio.Event()

    async def send(_: Message) -> None:
        sending.set()
        if where == "before its start":
            await asyncio.Event().wait()

    stream = Stream(await begun(followed.parts()), stopping=asyncio.Event(), media_type="text/plain")
    assert followed.open
    answering = asyncio.create_task(stream({"type": "http"}, receive, send))
    await sending.wait()
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    assert not followed.open
