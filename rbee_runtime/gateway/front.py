"""A client's connection on which some requests are relayed, byte by byte, and the others go to an application."""

import asyncio
from typing import Any, Protocol

from rbee_runtime.gateway.faults import unforeseen
from rbee_runtime.gateway.peers import Peers, peer_of, too_many
from rbee_runtime.gateway.repeated import Head, head_of
from rbee_runtime.http_connection import BODY_SECONDS, Connection, say_unforeseen

DISCARDED_BYTES = 1024 * 1024
"""Of a body whose request is answered already: so much is read and forgotten, so that its connection can go on."""

REFUSED_SECONDS = 1.0
"""For a client that has too many connections to read so."""

MOST_UNLIKE = 3
"""After so many heads in a row that were others, none of that connection is kept: a pool of many clients' requests."""


class Hot(Protocol):
    """A request that is relayed, from its head to the last byte of its answer; nothing here raises."""

    def heard_head(self) -> None:
        """Begin, or refuse the request."""

    def heard_part(self, data: bytes) -> None:
        """Take a part of the body."""

    def heard_whole(self) -> None:
        """Begin to answer: the request is whole."""

    def heard_gone(self) -> None:
        """Stop: its client is gone."""

    def heard_room(self, *, room: bool) -> None:
        """Note whether the client keeps up."""

    def give_up(self, why: str) -> bool:
        """Stop without another word; say whether nothing went out yet."""
        ...


class Desk(Protocol):
    """Decides which requests are relayed."""

    @property
    def leaving(self) -> bool:
        """Say whether connections are to end behind their answers."""
        ...

    def headers_for(self, front: "Front") -> bytes:
        """Return further headers of an answer, each with its end of line."""
        ...

    def take(self, front: "Front") -> Hot | None:
        """Return who answers the request whose head `front` has, None for the application."""
        ...


class Front(Connection):
    """One connection of a client."""

    def __init__(self, *arguments: Any, desk: Desk, peers: Peers, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._peers = peers
        self._peer: str | None = None
        """Whose connection it is, while it is counted."""
        self.chunks = True
        self.holder = ""
        """Whose request it is, as the desk says."""
        self._desk = desk
        self._hot: Hot | None = None
        self._head: Head | None = None
        self._names: dict[bytes, bytes] | None = None
        """Of the request that `_head` is from: while no other head was read, all that was read of it holds."""
        self._relayed = False
        self._owed = self._unlike = 0
        self._keeps = True
        self._discards = 0
        self._dated: Any = None
        self._date = b""
        self._idle_since = 0.0
        self._idle_check: asyncio.TimerHandle | None = None

    @property
    def method(self) -> bytes:
        """Return the method of the request that came last."""
        method: bytes = self.parser.get_method()
        return method

    @property
    def busy(self) -> bool:
        """Say whether an answer is under way."""
        return self._hot is not None or super().busy

    @property
    def room(self) -> bool:
        """Say whether the client keeps up."""
        return not self.flow.write_paused

    def header(self, name: bytes) -> bytes:
        """Return the header of that name (lower case) of the request that came last, b"" if there is none."""
        return self.by_name.get(name, b"")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first request, unless its client has too many connections."""
        super().connection_made(transport)
        peer = peer_of(transport.get_extra_info("peername"))
        if self._peers.enter(peer):
            self._peer = peer
        else:
            self.refuse(too_many())
            # Over TLS a close waits for the other side's, and whoever has too many need not give it.
            self.loop.call_later(REFUSED_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that came before is not read again."""
        if self._owed:
            self._take_owed(data)
            return
        between = not (self._deaf or self._in_head or self._receiving or self.busy)
        if between and self._head is not None and self._names is self.by_name:
            again = self._head.length_of(data)
            if again is not None:
                self._unlike = 0
                self._repeat(again[0], data[again[1] :])
                return
            self._unlike += 1
        self._relayed = False
        super().data_received(data)
        if between and self._relayed and self._keeps and not self._deaf and self._unlike < MOST_UNLIKE:
            self._head, self._names = head_of(data), self.by_name

    def begin(self) -> None:
        """Have a request relayed, or hand it to the application."""
        self.chunks = self.parser.get_http_version() != "1.0"
        self._keeps = self.chunks and self.parser.should_keep_alive()
        hot = self._taken()
        if self._deaf:
            return
        if hot is None:
            super().begin()
            return
        # What is sent after a word of ours does not come in one piece.
        self._relayed = not self.expect_100_continue and b"transfer-encoding" not in self.by_name
        hot.heard_head()
        if self.expect_100_continue and self._hot is hot:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _taken(self) -> Hot | None:
        self._discards, self.holder = 0, ""
        try:
            self._hot = self._desk.take(self)
        except Exception as error:  # noqa: BLE001 - it is logged
            say_unforeseen(error)
            self._receiving = False
            self.refuse(unforeseen())
        return self._hot

    def _repeat(self, length: bytes, data: bytes) -> None:
        """Take a request with the head of the one before, which was relayed as this one is; its body is in `data`."""
        self._unset_keepalive_if_required()
        self.by_name[b"content-length"] = length
        self._receiving, self._owed = True, int(length)
        hot = self._taken()
        if hot is not None:
            hot.heard_head()
            self._take_owed(data)

    def _take_owed(self, data: bytes) -> None:
        """Take what came of a body that the parser does not know of."""
        if self._deaf:
            return
        part, rest = data[: self._owed], data[self._owed :]
        self._owed -= len(part)
        if part:
            self.take_part(part)
        if self._owed:
            self._goes_on(0, BODY_SECONDS)
            return
        self.on_message_complete()
        if rest:
            super().data_received(rest)

    def take_part(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._hot is not None:
            self._hot.heard_part(body)
        elif self._discards:
            self._discards -= len(body)
            if self._discards <= 0:
                self.end()
        else:
            super().take_part(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        if self._deaf or self._upgrading:
            return
        if self._hot is not None:
            self._is_in()
            self._hot.heard_whole()
        elif self._discards:
            self._is_in()
            self._discards = 0
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still answers."""
        hot, self._hot = self._hot, None
        if hot is not None:
            hot.heard_gone()
        if self._peer is not None:
            self._peers.leave(self._peer)
        if self._idle_check is not None:
            self._idle_check.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the client does not keep up."""
        super().pause_writing()
        if self._hot is not None:
            self._hot.heard_room(room=False)

    def resume_writing(self) -> None:
        """Note that it does again."""
        super().resume_writing()
        self.flow.resume_reading()
        if self._hot is not None:
            self._hot.heard_room(room=True)

    def end_after_answer(self) -> None:
        """Have the connection end behind the answer that is under way."""
        if self._hot is not None:
            self._keeps = False
        else:
            super().end_after_answer()

    def drop_answer(self, why: str) -> bool:
        """End the answer that is under way; say whether nothing of it went out yet."""
        hot, self._hot = self._hot, None
        return hot.give_up(why) if hot is not None else super().drop_answer(why)

    def fixed(self) -> bytes:
        """Return the headers that every answer on this connection has."""
        headers = self.server_state.default_headers
        if headers is not self._dated:
            self._dated = headers
            self._date = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        fixed = self._date + self._desk.headers_for(self)
        if self._keeps and not self._desk.leaving:
            return fixed
        self._keeps = False
        return fixed + b"connection: close\r\n"

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.transport.write(data)

    def answered(self) -> None:
        """Let the next request come."""
        self._hot = None
        self.server_state.total_requests += 1
        if not self._keeps:
            self.end()
            return
        if self._receiving:
            self._discards = DISCARDED_BYTES
        if self.flow.write_paused:
            # Answers that nobody reads would pile up.
            self.flow.pause_reading()
        self.await_next()

    def await_next(self) -> None:
        """Close a connection on which nobody asks again; one check serves all requests of that time."""
        self._idle_since = self.loop.time()
        if self._idle_check is None:
            self._idle_check = self.loop.call_later(self.timeout_keep_alive, self._look_whether_idle)

    def broken_off(self) -> None:
        """End the connection at once, which no client takes for the end of an answer."""
        self._hot = None
        self.transport.abort()

    def _look_whether_idle(self) -> None:
        self._idle_check = None
        if self.timeout_keep_alive_task is not None:
            # The last answer was the application's, which has a check of its own.
            return
        in_use = self.busy or self._receiving or self._in_head
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if in_use or left > 0:
            after = self.timeout_keep_alive if in_use else left
            self._idle_check = self.loop.call_later(after, self._look_whether_idle)
        else:
            self.end()
