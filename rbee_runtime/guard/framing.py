"""The hive's side of HTTP: one request per connection, received whole and bounded, then one answer, then the end."""

import asyncio
import json
from typing import Any

import h11

from rbee_runtime.errors import GuardError
from rbee_runtime.guard.engine_socket import Answer, OpenAnswer
from rbee_runtime.guard.table import Request

HEAD_BYTES = 64 * 1024
BODY_BYTES = 1024 * 1024
RECEIVE_SECONDS = 15.0
"""For head and body together; they come from this host, from a client that has them ready."""

SEND_SECONDS = 60.0
"""For one piece of an answer; a client that takes none for so long is gone."""

READ_BYTES = 16 * 1024
_EMPTY = {204, 304}


class HungUpError(Exception):
    """The hive has closed its side."""


class Connection:
    """One connection of a hive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._head_alone = False

    async def receive(self) -> Request:
        """Return the one request; HungUpError if there is none, GuardError if it is not to be understood in one way."""
        try:
            async with asyncio.timeout(RECEIVE_SECONDS):
                return await self._receive()
        except TimeoutError:
            raise GuardError(f"the request did not come within {RECEIVE_SECONDS:g} s", status=408) from None
        except h11.RemoteProtocolError as error:
            raise GuardError(f"the request is no HTTP: {error}", status=error.error_status_hint) from error
        except OSError as error:
            raise HungUpError from error

    async def hung_up(self) -> None:
        """Return when the hive closes its side; what it sends instead is not read as anything."""
        try:
            while await self._reader.read(READ_BYTES):
                pass
        except OSError:
            return

    async def send(self, answer: Answer) -> None:
        """Send a whole answer."""
        empty = answer.status in _EMPTY
        length = [] if empty else [("Content-Length", str(len(answer.content)))]
        await self._write(self._head(answer.status, answer.kind, length))
        if not empty and not self._head_alone:
            await self._write(h11.Data(data=answer.content))
        await self._write(h11.EndOfMessage())

    async def send_open(self, answer: OpenAnswer) -> None:
        """Send an answer piece by piece."""
        await self._write(self._head(answer.status, answer.kind, [("Transfer-Encoding", "chunked")]))
        async for block in answer.blocks:
            await self._write(h11.Data(data=block))
        await self._write(h11.EndOfMessage())

    async def refuse(self, error: GuardError) -> None:
        """Send a refusal as both engines' clients read it, unless an answer has begun already."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            said = {"cause": "refused", "message": f"rbee-guard: {error}", "response": error.status}
            await self.send(Answer(error.status, json.dumps(said).encode()))

    async def close(self) -> None:
        """End the connection; what the hive still sends is not waited for."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    async def _receive(self) -> Request:
        head = await self._next()
        if isinstance(head, h11.ConnectionClosed):
            raise HungUpError
        if not isinstance(head, h11.Request):
            raise GuardError("the request is no HTTP: it has no first line", status=400)
        self._head_alone = head.method == b"HEAD"
        _check_head(head)
        body = bytearray()
        while isinstance(event := await self._next(), h11.Data):
            body += event.data
            if len(body) > BODY_BYTES:
                raise GuardError(f"the body has more than {BODY_BYTES} bytes", status=413)
        if self._http.trailing_data[0]:
            raise GuardError("more than one request came at once: use a connection for each", status=400)
        return Request(head.method.decode("ascii"), head.target.decode("latin-1"), bytes(body))

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(READ_BYTES))
        return event

    def _head(self, status: int, kind: str, length: list[tuple[str, str]]) -> h11.Response:
        return h11.Response(status_code=status, headers=[("Content-Type", kind), ("Connection", "close"), *length])

    async def _write(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                self._writer.write(self._http.send(event) or b"")
                await self._writer.drain()
        except OSError as error:
            raise HungUpError from error


def _check_head(head: h11.Request) -> None:
    names = [name for name, _ in head.headers]
    if head.http_version != b"1.1":
        raise GuardError("the request is not HTTP/1.1", status=400)
    if b"transfer-encoding" in names and b"content-length" in names:
        raise GuardError("the request has both Content-Length and Transfer-Encoding: send one", status=400)
    for name in (b"upgrade", b"expect"):
        if name in names:
            raise GuardError(f"the header {name.decode()} is not taken: leave it out", status=400)
