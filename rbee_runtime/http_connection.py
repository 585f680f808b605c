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
"""Headers, and trailers, that go on after so much are refused; they would be collected without end."""

TAKING_SECONDS = 15.0
"""A client that took no byte of what waits for it from one look to the next is cut off."""

_NO_METHOD = frozenset({b"CONNECT", b"TRACE"})


class Connection(HttpToolsProtocol):
    """Takes the requests of one connection in turn."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self._deaf = self._fed = False
        self._in_head = self._receiving = self._upgrading = False
        self._head_bytes = 0
        self._left = -1
        self._watch: asyncio.TimerHandle | None = None
        self._overdue: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still answers."""
        self._deaf = True
        self._nothing_is_due()
        self._watch_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._fed = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._go_on_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError as error:
            say_raised(error)
            self.refuse(RequestError(400, "this is no request in HTTP/1.1", code="bad_framing"))
        if self._deaf:
            return
        if self._in_head:
            self._goes_on(len(data), HEAD_SECONDS)
        elif self._receiving:
            self._goes_on(len(data), BODY_SECONDS)
        elif not self.busy:
            self.await_next()

    def await_next(self) -> None:
        """Close a connection on which nobody asks again."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.end)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nobody asks again (the application's answer was the last one)."""
        self.end()

    def end(self) -> None:
        """Close, behind what waits to be sent, for as long as the client takes of that."""
        self._deaf = True
        self._nothing_is_due()
        self.transport.close()
        self.watch()

    def watch(self) -> None:
        """Look now and then whether the client takes what waits for it."""
        if self._watch is None:
            self._left = -1
            self._watch = self.loop.call_later(TAKING_SECONDS, self._look_whether_taken)

    def pause_writing(self) -> None:
        """Note that the client does not keep up."""
        super().pause_writing()
        self.watch()

    def resume_writing(self) -> None:
        """Note that it does again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._watch_no_more()

    def on_response_complete(self) -> None:
        """Let the next request come, or see the last answer out."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.end()

    def refuse(self, error: RequestError) -> None:
        """Answer what comes in with an error and hear no more."""
        if self._deaf:
            return
        self._deaf = True
        self._nothing_is_due()
        if self.busy and not self._receiving:
            self.end_after_answer()
            return
        # A body may go wrong whose request was answered already: that has no second answer.
        unanswered = self.drop_answer(str(error)) if self.busy else not self._receiving
        if unanswered:
            self.transport.write(refusal(error))
        self.end()

    @property
    def busy(self) -> bool:
        """Say whether an answer is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def end_after_answer(self) -> None:
        """Have the connection end behind the answer that is under way."""
        self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End, behind the answer that is under way."""
        if self.busy:
            self.end_after_answer()
        else:
            self.end()

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
        self._head_bytes = 0
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
        try:
            # What is no URL would be found out below, by an error that nobody answers.
            httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            self._receiving = False
            self.refuse(RequestError(400, "the target of this request is no path and no URL", code="bad_framing"))
            return
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
            self._fed = True
            self.take_part(body)

    def take_part(self, body: bytes) -> None:
        """Hand a part of a body to the application."""
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

    def _goes_on(self, more: int, seconds: float) -> None:
        """Bound what did not come in one piece: its time, and its bytes that are no body."""
        self._head_bytes = 0 if self._fed else self._head_bytes + more
        if self._head_bytes > HEAD_BYTES:
            self.refuse(RequestError(431, f"headers and trailers of a request have at most {HEAD_BYTES} bytes"))
        elif self._overdue is None:
            self._overdue = self.loop.call_later(seconds, self.transport.abort)

    def _look_whether_taken(self) -> None:
        self._watch = None
        left = self.transport.get_write_buffer_size()
        if left == self._left:
            self.transport.abort()
            return
        self.watch()
        self._left = left

    def _watch_no_more(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = None

    def _nothing_is_due(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = None


def say_unforeseen(error: BaseException) -> None:
    """Log a fault of ours."""
    log.error("a request failed in a way that nobody foresaw", exc_info=error)


def say_raised(error: Exception) -> None:
    """Log what one of our own callbacks raised: the parser tells it as a fault of what it read."""
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
        say_unforeseen(error.__context__)


def refusal(error: RequestError) -> bytes:
    """Return an error as the last answer of a connection."""
    body = msgspec.json.encode(error.body())
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in error.headers().items()]
    lines += [f"content-length: {len(body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode() + body
