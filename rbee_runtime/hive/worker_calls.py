"""Short questions to our own workers over connections that stay open.

A hive asks thirty workers fifteen times a second for as long as it lives; a general HTTP client spends four times as
much processor time on that as this does (`make bench-hive`).
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from rbee_runtime.errors import LinkError
from rbee_runtime.link import Link, Role, refuse_stranger

MAX_BYTES = 64 * 1024
"""What a worker says about itself is a few hundred bytes."""


class WorkerCallError(Exception):
    """A worker answered with something that is no answer."""


@dataclass(frozen=True)
class Reply:
    """Status and body of one answer."""

    status: int
    body: bytes


class WorkerCalls:
    """One connection per worker, by its base URL; the caller limits the time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._tls = cast("ssl.SSLContext | None", link.client_context() or None)
        token = f"x-rbee-token: {link.token}\r\n" if link.token else ""
        self._headers = f"accept: application/json\r\n{token}\r\n"
        self._lines: dict[str, _Line] = {}

    async def get(self, base: str, path: str) -> Reply:
        """Return the answer to one GET, or raise OSError, WorkerCallError or LinkError; a cancelled call hangs up."""
        line = self._lines.get(base)
        if line is not None and line.usable:
            try:
                return await self._ask(line, base, path)
            except ConnectionError:
                # It was closed while nobody looked, which says nothing about the worker.
                self.drop(base)
        line = self._lines[base] = await self._connect(base)
        return await self._ask(line, base, path)

    def drop(self, base: str) -> None:
        """Hang up."""
        line = self._lines.pop(base, None)
        if line is not None:
            line.close()

    def close(self) -> None:
        """Hang up everywhere."""
        for base in tuple(self._lines):
            self.drop(base)

    async def _ask(self, line: "_Line", base: str, path: str) -> Reply:
        try:
            return await line.ask(f"GET {path} HTTP/1.1\r\nhost: {urlsplit(base).netloc}\r\n{self._headers}".encode())
        except BaseException:
            # Half an answer may still come; it must not become the next one's.
            self.drop(base)
            raise

    async def _connect(self, base: str) -> "_Line":
        self.drop(base)
        parts = urlsplit(base)
        loop = asyncio.get_running_loop()
        transport, line = await loop.create_connection(_Line, str(parts.hostname), parts.port or 0, ssl=self._tls)
        if self._tls is not None:
            tls = transport.get_extra_info("ssl_object")
            try:
                refuse_stranger(self._link.fleet, Role.WORKER, tls.getpeercert(), host=str(parts.hostname))
            except LinkError:
                line.close()
                raise
        return line


class _Line(asyncio.Protocol):
    """One connection; one question at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()

    @property
    def usable(self) -> bool:
        """Say whether a question can be asked."""
        return self._transport is not None and not self._transport.is_closing() and self._answer is None

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its answer."""
        if self._transport is None or not self.usable:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    def close(self) -> None:
        """Hang up without a farewell."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("it closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WorkerCallError(f"it answers something that is not HTTP: {error}"))
            self.close()

    def on_body(self, part: bytes) -> None:
        """Collect the body."""
        self._body += part
        if len(self._body) > MAX_BYTES:
            self._fail(WorkerCallError(f"it answers with more than {MAX_BYTES} bytes"))
            self.close()

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(self._parser.get_status_code(), bytes(self._body)))
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
