"""Receive a request body within bounds, and notice when its client leaves."""

import asyncio

from starlette.types import Receive, Scope

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.surface.reply import ClientGoneError

MAX_BYTES = 10 * 1024 * 1024

SECONDS = 30.0
"""Deadline for the whole body; without one a slow sender holds a connection for ever."""


async def receive_body(scope: Scope, receive: Receive) -> bytes:
    """Return the body or raise RequestError (408, 413), ClientGoneError."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if int(length) > MAX_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(SECONDS):
            return await _collect(receive)
    except TimeoutError as error:
        message = f"the request body did not arrive within {SECONDS:.0f} s"
        raise RequestError(408, message, code="request_timeout") from error


async def _collect(receive: Receive) -> bytes:
    received = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        received += message.get("body", b"")
        if len(received) > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(received)


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large() -> RequestError:
    return RequestError(413, f"the request body is larger than {MAX_BYTES} bytes", code="request_too_large")
