"""Take a request's body within bounds, and read from it only what routing needs."""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Receive, Scope

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Limits
from rbee_runtime.protocol import decode


class ClientGoneError(Exception):
    """The client closed the connection; there is nobody left to answer."""


@dataclass(frozen=True)
class ChatBody:
    """A request body: the bytes as they came, and the two fields that the gateway acts on."""

    raw: bytes
    model: str
    stream: bool


class _Fields(msgspec.Struct):
    model: Any = None
    stream: Any = False


_DECODER = msgspec.json.Decoder(_Fields)


def header(scope: Scope, name: bytes) -> str:
    """Return the first header of that name (lower case) as text, or an empty string."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def receive_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the whole body; raise RequestError 413 or 408, or ClientGoneError."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _collect(receive, limits)
    except TimeoutError:
        message = f"the request body did not arrive within {limits.body_seconds:g} s"
        raise RequestError(408, message, code="request_timeout") from None


async def _collect(receive: Receive, limits: Limits) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limits.body_bytes:
            raise _too_large(limits)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def renamed(body: ChatBody, model: str) -> bytes:
    """Return the body with another name of its model and each other value as it came, or raise RequestError 400.

    A key that came twice is there once, with the value that was read: no server may take the other one.
    """
    try:
        fields = decode(body.raw, dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise RequestError(400, f"the request body is not JSON: {error}") from None
    return msgspec.json.encode({**fields, "model": model})


def _too_large(limits: Limits) -> RequestError:
    return RequestError(413, f"the request body is larger than {limits.body_bytes} bytes", code="request_too_large")


def parse_chat(raw: bytes) -> ChatBody:
    """Return what the gateway needs of a body or raise RequestError 400 naming the field."""
    try:
        fields = _DECODER.decode(raw)
    except msgspec.ValidationError:
        raise RequestError(400, "the request body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the request body is not JSON: {error}") from None
    if not isinstance(fields.model, str) or not fields.model:
        raise RequestError(400, "name a model: `model` must be a non-empty string", param="model")
    if fields.stream is not None and not isinstance(fields.stream, bool):
        raise RequestError(400, "`stream` must be true or false", param="stream")
    return ChatBody(raw, fields.model, bool(fields.stream))
