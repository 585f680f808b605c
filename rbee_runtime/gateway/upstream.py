"""Connections to workers: kept while idle, one answer at a time, bytes handed on as they come.

A connection is dialled for a request, then idle and busy in turns until either end closes it:

dialling → busy ⇄ idle → closed

Only an idle one can be taken; an answer that was not read to its end closes its connection, so that none of it can be
taken for the next one.
"""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from rbee_runtime.errors import LinkError
from rbee_runtime.framing import Headers
from rbee_runtime.http_connection import say_raised
from rbee_runtime.link import Link, Role, notice_dead_peers, refuse_stranger

IDLE_SECONDS = 60.0
"""Connections are let go before a worker's server closes them (75 s), so that one that is taken is alive."""

CONNECT_SECONDS = 2.0
"""To a server of this network: one that takes no connection by then is not there."""

MOST_IDLE = 128
"""For one worker; what a burst has opened beyond that is not kept."""

HEAD_BYTES = 64 * 1024

BODILESS = frozenset({204, 304})
"""Answers of these statuses have no body, and none that says how long it would be (RFC 9110, 8.6)."""


class Listener(Protocol):
    """Whoever waits for one answer; called in this order, from the event loop, and must not raise."""

    def heard_head(self, status: int, headers: Headers) -> None:
        """Take status and headers, names in lower case."""

    def heard_data(self, data: bytes) -> None:
        """Take the next bytes of the body."""

    def heard_end(self) -> None:
        """Note that the answer is whole; the connection is somebody else's from now on."""

    def heard_loss(self, why: str, *, silent: bool) -> None:
        """Note that no more will come; `silent` if nothing of the answer did."""


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a server listens: what is dialled, and what stands before each path."""

    host: str
    port: int
    tls: bool
    base: str
    authority: str
    url: str


@lru_cache(maxsize=4096)
def origin_of(url: str) -> Origin:
    """Return the origin in an http or https URL; ValueError if it is none."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url} is no address of a server")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    return Origin(parts.hostname, port, tls, parts.path.rstrip("/"), parts.netloc.rpartition("@")[2], url)


class Upstream(asyncio.Protocol):
    """One connection to one server."""

    def __init__(self, pool: "Pool", origin: Origin) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.used = False
        self._pool = pool
        self._listener: Listener | None = None
        self._transport: asyncio.Transport | None = None
        self._unread = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._expect()

    def _expect(self) -> None:
        """Be ready for a next answer."""
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._begun = self._in_body = self._complete = self._to_the_end = self._surplus = self._keeps = False
        self._head_bytes = 0

    def ask(self, request: bytes, listener: Listener) -> None:
        """Send a whole request and let `listener` hear the answer."""
        self._listener = listener
        self._connected().write(request)

    def drop(self) -> None:
        """Close the connection at once; nobody hears of it."""
        self._listener = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more for now: whom the answer is for does not keep up."""
        self._connected().pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._connected().resume_reading()

    @property
    def silent(self) -> bool:
        """Say whether nothing came that was not read yet: an answer to nothing, or the end."""
        return not self._unread.poll(0)

    @property
    def open(self) -> bool:
        """Say whether it can be used."""
        return self._transport is not None and not self._transport.is_closing()

    def certificate(self) -> dict[str, object] | None:
        """Return the other end's certificate as `getpeercert()` has it, None without TLS."""
        tls = self._connected().get_extra_info("ssl_object")
        return cast("dict[str, object]", tls.getpeercert()) if tls is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        plain = transport.get_extra_info("socket")
        self._unread.register(plain.fileno(), select.POLLIN)
        for level, option, value in notice_dead_peers():
            plain.setsockopt(level, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits; an answer without a length ends with its connection (RFC 9112, 6.3)."""
        self._transport = None
        self._pool.forget(self)
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._to_the_end and self._in_body and exc is None:
            listener.heard_end()
        else:
            why = f"its connection broke: {exc}" if exc is not None else "it closed the connection"
            listener.heard_loss(why, silent=not self._begun)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self._listener is None:
            # Nobody asked: an answer to nothing, or what is left of one.
            self.drop()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            say_raised(error)
            self._break("it answered something that is not HTTP")
            return
        # Also trailers and extensions of chunks, which nobody reads and the parser collects.
        self._head_bytes = 0 if self._pieces or self._complete else self._head_bytes + len(data)
        if self._head_bytes > HEAD_BYTES:
            self._break(f"headers and trailers of its answer have more than {HEAD_BYTES} bytes")
            return
        self._hand_on()

    def on_message_begin(self) -> None:
        """Begin an answer; nobody asked for a second one behind the first."""
        self._surplus = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; trailers count for nothing."""
        if not self._in_body:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand on the head; that of an interim answer is none."""
        status = self._parser.get_status_code()
        if self._complete:
            return
        if status < 200 or self._listener is None:
            self._headers = []
            return
        self._in_body = True
        names = {name for name, _ in self._headers}
        self._to_the_end = status not in BODILESS and not names & {b"content-length", b"transfer-encoding"}
        self._listener.heard_head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Note that the answer is whole."""
        if self._complete:
            return
        self._complete = self._in_body
        self._keeps = self._parser.should_keep_alive()

    def _hand_on(self) -> None:
        # What was heard may have ended the exchange meanwhile.
        if self._pieces and self._listener is not None:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces = []
            self._listener.heard_data(data)
        if self._complete and self._listener is not None:
            self._finish()

    def _finish(self) -> None:
        listener, self._listener = self._listener, None
        keeps = self._keeps and not self._to_the_end and not self._surplus
        self._expect()
        self.used = True
        if keeps and self.open:
            # Whom this answer was for may have fallen behind; the next one is heard again.
            self.resume()
            self._pool.keep(self)
        else:
            self.drop()
        if listener is not None:
            listener.heard_end()

    def _break(self, why: str) -> None:
        listener, silent = self._listener, not self._in_body
        self.drop()
        if listener is not None:
            listener.heard_loss(why, silent=silent)

    def _connected(self) -> asyncio.Transport:
        if self._transport is None:
            raise AssertionError("a connection was used that is closed")
        return self._transport


class Pool:
    """The connections of one kind of trust; one per event loop.

    `tls` is for https origins; `headers` go with every request; `demand` raises LinkError for a stranger's certificate.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        headers: bytes = b"",
        demand: Callable[[dict[str, object] | None, str], None] = lambda _certificate, _host: None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self.headers = headers
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._demand = demand
        self._connect_seconds = connect_seconds
        self._idle: dict[str, deque[Upstream]] = {}
        self._all: set[Upstream] = set()
        self._closed = False

    def take(self, origin: Origin) -> Upstream | None:
        """Return the connection that was used last, or None if a new one has to be dialled."""
        line = self._idle.get(origin.url)
        oldest = self._loop.time() - IDLE_SECONDS
        while line:
            found = line.pop()
            if found.open and found.idle_since > oldest and found.silent:
                return found
            found.drop()
        return None

    async def dial(self, origin: Origin) -> Upstream:
        """Return a new connection; OSError, TimeoutError, ssl.SSLError, or LinkError for a stranger."""
        async with asyncio.timeout(self._connect_seconds):
            _, connection = await self._loop.create_connection(
                lambda: Upstream(self, origin),
                origin.host,
                origin.port,
                ssl=self._context(origin),
                server_hostname=origin.host if origin.tls else None,
            )
        self._all.add(connection)
        try:
            self._demand(connection.certificate(), origin.host)
        except LinkError:
            connection.drop()
            raise
        return connection

    def keep(self, connection: Upstream) -> None:
        """Keep a connection for the next request."""
        line = self._idle.setdefault(connection.origin.url, deque())
        if self._closed or len(line) >= MOST_IDLE:
            connection.drop()
            return
        now = connection.idle_since = self._loop.time()
        while line and line[0].idle_since <= now - IDLE_SECONDS:
            # The last one is taken first: those of a busy hour would stay as long as their server lets them.
            line.popleft().drop()
        line.append(connection)

    @property
    def idle(self) -> int:
        """Return how many connections wait for a request."""
        return sum(len(line) for line in self._idle.values())

    def forget(self, connection: Upstream) -> None:
        """Note that a connection is closed."""
        self._all.discard(connection)
        line = self._idle.get(connection.origin.url)
        if line and connection in line:
            line.remove(connection)
        if not line:
            self._idle.pop(connection.origin.url, None)

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        for connection in tuple(self._all):
            connection.drop()

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.tls and self._tls is None:
            raise LinkError(f"{origin.authority} speaks TLS, for which there are no certificates here")
        return self._tls if origin.tls else None


def fleet_pool(link: Link, peer: Role) -> Pool:
    """Return the connections of a fleet's process to its peers of one role."""
    context = link.client_context()
    token = f"x-rbee-token: {link.token}\r\n".encode() if link.token else b""
    if not isinstance(context, ssl.SSLContext):
        return Pool(headers=token)

    def demand(certificate: dict[str, object] | None, host: str) -> None:
        refuse_stranger(link.fleet, peer, certificate, host=host)

    return Pool(tls=context, headers=token, demand=demand)
