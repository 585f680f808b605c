"""One connection to a server of ours: uvicorn's protocol with bounds for heads, strict framing and the caller's name.

A request that is refused here gets a sentence and the end of its connection, after the answers to those before it.
"""

import asyncio
import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rbee_runtime import framing
from rbee_runtime.errors import RequestError
from rbee_runtime.link import peer_identity

log = logging.getLogger(__name__)

PEER = "rbee.peer"
"""Scope key of the caller's `Identity` (or None)."""

ABORT = "rbee.abort"
"""Scope key of a function that drops the connection at once, for an answer that cannot be completed."""

HEAD_SECONDS = 10.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""

BODY_SECONDS = 60.0
"""From the end of the headers to the end of the body, whoever reads it, and if nobody does."""

HEAD_BYTES = 64 * 1024
"""Headers that go on after so much are refused; uvicorn itself would collect them without end."""

_NO_METHOD = frozenset({b"CONNECT", b"TRACE"})


class Connection(HttpToolsProtocol):
    """Takes the requests of one connection in turn."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self._deaf = False
        self._in_head = self._receiving = self._upgrading = False
        self._head_bytes = 0
        self._overdue: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still answers."""
        self._deaf = True
        self._nothing_is_due()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._go_on_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError as error:
            say_unforeseen(error)
            self.refuse(RequestError(400, "this is no request in HTTP/1.1", code="bad_framing"))
        if self._deaf:
            return
        if self._in_head:
            self._head_goes_on(len(data))
        elif self._receiving and self._overdue is None:
            self._overdue = self.loop.call_later(BODY_SECONDS, self.transport.abort)

    def refuse(self, error: RequestError) -> None:
        """Answer what comes in with an error and hear no more."""
        if self._deaf:
            return
        self._deaf = True
        self._nothing_is_due()
        if self.busy and not self._receiving:
            self.end_after_answer()
            return
        if not self.busy or self.drop_answer(str(error)):
            self.transport.write(refusal(error))
        self.transport.close()

    @property
    def busy(self) -> bool:
        """Say whether an answer is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def end_after_answer(self) -> None:
        """Have the connection end behind the answer that is under way."""
        self.cycle.keep_alive = False

    def drop_answer(self, _why: str) -> bool:
        """End the answer that is under way; say whether nothing of it went out yet."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return not self.cycle.response_started

    def on_message_begin(self) -> None:
        """Begin a request; one that does not wait for the answer to the one before is not taken (RFC 9112, 9.3.2)."""
        if self._deaf:
            return
        if self.busy:
            self._deaf = True
            self.end_after_answer()
            return
        self._head_bytes = 0
        self._in_head = True
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; those behind a body (trailers) count for nothing."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Begin the answer to a sound request."""
        if self._deaf:
            return
        self._nothing_is_due()
        self._in_head = False
        self.by_name = dict(self.headers)
        try:
            self._demand_sound()
        except RequestError as error:
            self.refuse(error)
            return
        self._upgrading = self.parser.should_upgrade()
        if not self._upgrading:
            self._receiving = True
            self.begin()

    def begin(self) -> None:
        """Hand a request to the application."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expects
        tls = self.transport.get_extra_info("ssl_object")
        scope = cast("MutableMapping[str, Any]", self.scope)
        scope[ABORT] = self.transport.abort
        scope[PEER] = peer_identity(tls.getpeercert() if tls is not None else None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        if not self._deaf and not self._upgrading:
            self._is_in()
            super().on_message_complete()

    def _is_in(self) -> None:
        self._receiving = False
        self._nothing_is_due()

    def _demand_sound(self) -> None:
        if self.parser.get_method() in _NO_METHOD:
            raise RequestError(405, "this server takes no such method", code="method_not_allowed")
        framing.demand_sound(self.parser.get_http_version(), self.url, self.headers, self.by_name)
        self.expect_100_continue = b"expect" in self.by_name

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        if self._deaf:
            return
        parser, self._upgrading = self.parser, False
        head = framing.without_upgrade(parser.get_method(), self.url, parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _head_goes_on(self, more: int) -> None:
        """Bound a head that did not come in one piece."""
        self._head_bytes += more
        if self._head_bytes > HEAD_BYTES:
            self.refuse(RequestError(431, f"the head of a request has at most {HEAD_BYTES} bytes"))
        elif self._overdue is None:
            self._overdue = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _nothing_is_due(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = None


def say_unforeseen(error: Exception) -> None:
    """Log what one of our own callbacks raised: the parser tells it as a fault of what it read."""
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
        log.error("a request failed in a way that nobody foresaw", exc_info=error.__context__)


def refusal(error: RequestError) -> bytes:
    """Return an error as the last answer of a connection."""
    body = msgspec.json.encode(error.body())
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in error.headers().items()]
    lines += [f"content-length: {len(body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode() + body
