"""The client's side of one exchange: what was sent so far, and how an error looks from there."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.types import Send

from rbee_runtime.errors import RequestError
from rbee_runtime.protocol import decode

Headers = list[tuple[bytes, bytes]]

PING = b": waiting\n\n"
_JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_PER_HOP = frozenset(
    {
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


def end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a worker's answer that are meant for the client."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in _PER_HOP]


class Downstream:
    """Sends one answer; knows whether it began (`status` is set) and whether a byte of the answer itself is out."""

    def __init__(self, send: Send, *, stream: bool) -> None:
        self._send = send
        self._stream = stream
        self.status = 0
        self.committed = False
        self.finished = False
        self.sent = 0

    async def ping(self) -> None:
        """Tell a waiting stream that it is alive; the status is 200 from now on."""
        if not self.committed and not self.finished:
            await self._start(200, _EVENTS)
            await self._body(PING)

    async def answer(self, status: int, headers: Headers, data: bytes) -> None:
        """Send the first bytes of an answer that goes on."""
        self.committed = True
        await self._start(status, headers)
        await self.go_on(data)

    async def go_on(self, data: bytes) -> None:
        """Send further bytes."""
        self.sent += len(data)
        await self._body(data)

    async def whole(self, status: int, headers: Headers, data: bytes) -> None:
        """Send an answer in one piece, as an error event if a ping went out before."""
        if self.status and status != 200:
            await self.finish(_event(_error_of(data)))
            return
        self.committed = True
        kept = [pair for pair in headers if pair[0] != b"content-length"]
        await self._start(status, [*kept, (b"content-length", str(len(data)).encode())])
        self.sent += len(data)
        await self.finish(data)

    async def finish(self, data: bytes = b"") -> None:
        """End the answer."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def fail(self, error: RequestError) -> None:
        """Tell the client: a JSON error before the first byte, one error event after it.

        An answer that is neither (a long one that is not streamed) can only break off, which the server does when it
        is left unfinished.
        """
        if self.finished:
            return
        if not self.status:
            extra = [(name.encode(), value.encode()) for name, value in error.headers().items()]
            await self.whole(error.status, _JSON + extra, msgspec.json.encode(error.body()))
        elif self._stream:
            await self.finish(_event(_with_retry(error)))

    async def _start(self, status: int, headers: Headers) -> None:
        if not self.status:
            self.status = status
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


def _with_retry(error: RequestError) -> dict[str, Any]:
    body = error.body()
    if error.retry_after is not None:
        body["error"]["retry_after"] = error.retry_after
    return body


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _error_of(data: bytes) -> dict[str, Any]:
    try:
        body = decode(data, object)
    except msgspec.DecodeError:
        body = None
    if isinstance(body, dict) and body.get("error"):
        return {"error": body["error"]}
    return RequestError(502, "the worker refused the request without a reason", kind="server_error").body()
