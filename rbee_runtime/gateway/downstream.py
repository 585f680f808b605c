"""The client's side of one exchange: what was sent so far, and how an error looks from there."""

from typing import Protocol

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from rbee_runtime.errors import RequestError
from rbee_runtime.framing import Headers
from rbee_runtime.gateway.routes import HotRoute
from rbee_runtime.gateway.upstream import BODILESS

PING = b": waiting\n\n"
JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_OURS = frozenset(
    {
        b"alt-svc",
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"strict-transport-security",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)
"""Headers of a worker's answer that are about its own connection or host, or that the gateway gives itself."""

_PAGES = b"access-control-"
"""Which pages may read an answer is the gateway's to say: servers of others often let every page."""


class Out(Protocol):
    """A client's connection while an answer goes out on it."""

    chunks: bool
    """Whether its client understands chunks; one of HTTP/1.0 hears the end of the connection instead."""

    @property
    def room(self) -> bool:
        """Say whether the client keeps up."""
        ...

    def fixed(self) -> bytes:
        """Return the headers that every answer on it has."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    def answered(self) -> None:
        """Let the next request come."""
        ...

    def broken_off(self) -> None:
        """End the connection at once, which no client takes for the end of an answer."""
        ...


class Answer:
    """Sends one answer; knows whether it began (`status` is set) and whether a byte of the answer itself is out.

    `torn` while half an event, or the half of an answer that has no events, is out. `marks` are further headers of an
    answer that goes on, `first` is when such a one began, in the loop's time. While another worker is to go on with it
    `committed` is about what that one sends.
    """

    def __init__(self, out: Out, route: HotRoute, request_id: str) -> None:
        self.stream = False
        self.marks: Headers = []
        self.torn = False
        self.status = 0
        self.committed = False
        self.finished = False
        self.sent = 0
        self.first = 0.0
        self._out = out
        self._route = route
        self._request_id = request_id

    @property
    def streams(self) -> bool:
        """Say whether the route can answer in events."""
        return self._route.streams

    @property
    def room(self) -> bool:
        """Say whether the client keeps up."""
        return self._out.room

    def ping(self) -> None:
        """Tell a waiting stream that it is alive; the status is 200 from now on."""
        self._begin(200, EVENTS, PING)

    def begin(self, status: int, headers: Headers, data: bytes) -> None:
        """Send the first bytes of an answer that goes on."""
        self.committed = True
        self.sent += len(data)
        self._begin(status, headers, data)

    def go_on(self, data: bytes) -> None:
        """Send further bytes."""
        self.sent += len(data)
        self._out.write(self._framed(data))

    def whole(self, status: int, headers: Headers, data: bytes) -> None:
        """Send an answer in one piece, as an error event if a ping went out before."""
        if self.status:
            self._end(self._route.event_of(data) if status != 200 else data)
            return
        self.committed = self.finished = True
        self.status = status
        self.sent += len(data)
        length = b"" if status in BODILESS else b"content-length: %d\r\n" % len(data)
        self._out.write(self._head(status, headers, length + b"\r\n") + data)
        self._out.answered()

    def finish(self, data: bytes = b"") -> None:
        """End an answer that began."""
        self.sent += len(data)
        self._end(data)

    def abandon(self) -> None:
        """End the connection of a client that takes no bytes."""
        self.finished = True
        self._out.broken_off()

    def fail(self, error: RequestError) -> None:
        """Tell the client: an error as JSON before the first byte, one error event after it.

        An answer that is neither (a long one that is not streamed, or within an event) can only break off.
        """
        if self.finished:
            return
        if not self.status:
            extra = [(name.encode(), value.encode()) for name, value in error.headers().items()]
            self.whole(error.status, JSON + extra, msgspec.json.encode(self._route.refused(error)))
        elif self.stream and not self.torn:
            self._end(self._route.event(error))
        else:
            self.abandon()

    def _begin(self, status: int, headers: Headers, data: bytes) -> None:
        if self.status:
            self._out.write(self._framed(data))
            return
        self.status = status
        headers = [*headers, *self.marks] if self.marks else headers
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._out.chunks else b"connection: close\r\n\r\n"
        self._out.write(self._head(status, headers, framing) + self._framed(data))

    def _end(self, data: bytes) -> None:
        self.finished = True
        if self._out.chunks:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if data:
            self._out.write(data)
        self._out.answered()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._out.chunks else data

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        lines = [STATUS_LINE[status], self._out.fixed()]
        lines += [b"%b: %b\r\n" % pair for pair in headers if pair[0] not in _OURS and not pair[0].startswith(_PAGES)]
        lines += [b"x-request-id: ", self._request_id.encode(), b"\r\n", framing]
        return b"".join(lines)
