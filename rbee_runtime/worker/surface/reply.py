"""One HTTP answer: plain JSON or a stream of events, and errors in whichever form the client already sees."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.types import Send

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway import usage
from rbee_runtime.worker.surface.events import event, named_event

_JSON = "application/json"
_EVENTS = "text/event-stream; charset=utf-8"


Refused = Callable[[RequestError], Mapping[str, Any]]
"""Makes the body of an error."""


class ClientGoneError(Exception):
    """The client closed its connection, or stopped reading and was cut from it."""


class Reply:
    """Sends one answer; `started` once the status line is out, after which an error can only be an event.

    `counted` if the queen wants to know what it costs, `traced` if also how far it is by each piece. A stream that
    `goes_on` with a text says so in its head. `ended` once the last byte is out: the server then reports a disconnect
    that is none.
    """

    def __init__(
        self, send: Send, refused: Refused = RequestError.body, *, counted: bool = False, traced: bool = False
    ) -> None:
        self._send = send
        self._refused = refused
        self.counted = counted
        self.traced = traced
        self.goes_on = False
        self.started = False
        self.ended = False

    async def json(self, body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole JSON answer."""
        await self.raw(msgspec.json.encode(body), status, headers)

    async def raw(self, payload: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send bytes as a whole JSON answer."""
        length = {"content-length": str(len(payload))}
        await self._start(status, {"content-type": _JSON} | length | dict(headers or {}))
        await self._body(payload, more=False)

    async def event(self, *items: Mapping[str, Any] | bytes) -> None:
        """Send server-sent events in one write; bytes go out as they are."""
        if not self.started:
            word = {usage.GOES_ON.decode(): "1"} if self.goes_on else {}
            await self._start(200, {"content-type": _EVENTS, "cache-control": "no-cache"} | word)
        written = [item if isinstance(item, bytes) else event(item) for item in items]
        await self._send({"type": "http.response.body", "body": b"".join(written), "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        await self._body(b"", more=False)

    async def fail(self, refusal: RequestError) -> None:
        """Send an error: a status if nothing went out yet, else one event and the end of the stream."""
        if not self.started:
            await self.json(self._refused(refusal), refusal.status, refusal.headers())
            return
        body = self._refused(refusal)
        # Anthropic's events have names, and errors too: their bodies say so by themselves.
        await self.event(named_event(body["type"], body) if "type" in body else body)
        await self.end()

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _body(self, payload: bytes, *, more: bool) -> None:
        self.ended = not more
        await self._send({"type": "http.response.body", "body": payload, "more_body": more})
