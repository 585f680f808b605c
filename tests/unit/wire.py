"""A connection of our HTTP server without a socket: bytes in, requests and answers out."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.peers import Peers
from rbee_runtime.http_connection import Connection

TURNS = 12
"""Of the loop, in which an application of a few steps has surely answered."""


@dataclass(frozen=True)
class Taken:
    """One request as the application got it."""

    method: str
    target: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), compare=False)


class Wire(asyncio.Transport):
    """The server's end of a connection that only notes what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    @property
    def statuses(self) -> list[int]:
        """Return the statuses of all answers so far; no body here looks like a status line."""
        return [int(line.split()[1]) for line in self.sent.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


class Recorder:
    """An application that takes whole bodies and answers `ok`."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.taken.append(Taken(scope["method"], scope["raw_path"], body, tuple(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class HotRecorder:
    """Takes whole bodies without an application and answers `ok`; as a desk, it takes every request."""

    leaving = False

    def __init__(self, taken: list[Taken]) -> None:
        self._taken = taken

    def headers_for(self, front: Front) -> bytes:
        return b""

    def take(self, front: Front) -> "HotRecorder":
        self._front, self._body = front, b""
        return self

    def heard_head(self) -> None:
        pass

    def heard_part(self, data: bytes) -> None:
        self._body += data

    def heard_whole(self) -> None:
        front = self._front
        self._taken.append(Taken(front.method.decode(), front.url, self._body, tuple(front.headers)))
        front.loop.call_soon(self._answer)

    def heard_gone(self) -> None:
        pass

    def heard_room(self, *, room: bool) -> None:
        pass

    def give_up(self, _why: str) -> bool:
        return True

    def _answer(self) -> None:
        self._front.write(b"HTTP/1.1 200 OK\r\n" + self._front.fixed() + b"content-length: 2\r\n\r\nok")
        self._front.answered()


async def heard(pieces: Iterable[bytes], *, hot: bool = False, turns: int = 0) -> tuple[Wire, list[Taken]]:
    """Return what a server did with a client's bytes that came in these pieces, with or without an application.

    It has so many turns of the loop after each piece.
    """
    recorder, wire = Recorder(), Wire()
    config = Config(cast("Any", recorder), lifespan="off", log_config=None, access_log=False, server_header=False)
    make = partial(Front, desk=HotRecorder(recorder.taken), peers=Peers(1000, time.monotonic)) if hot else Connection
    connection = make(config, ServerState(), {})
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    # What is left over, timers included, ends here; what the server did by itself was noted before.
    closed = wire.closed
    connection.connection_lost(None)
    wire.closed = closed
    return wire, recorder.taken
