"""Where the hive's routes read from, and how they read what callers send."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import RequestError
from rbee_runtime.events import EventLog
from rbee_runtime.hive.launchers import Launcher
from rbee_runtime.hive.metrics import Meters
from rbee_runtime.hive.obedience import Obedience
from rbee_runtime.hive.supervisor import Supervisor
from rbee_runtime.models.chunks import BlobServer
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import DeviceReport, Heartbeat, decode

M = TypeVar("M", bound=msgspec.Struct)

MAX_DIGITS = 10
"""Of a number in a query; leading zeros count."""


@dataclass(frozen=True)
class Facts:
    """What the routes may ask; `stopping` ends the answers that have no end of their own."""

    config: HiveConfig
    supervisor: Supervisor
    obedience: Obedience
    launcher: Launcher
    heartbeat: Callable[[], Awaitable[Heartbeat]]
    devices: Callable[[], Awaitable[Sequence[DeviceReport]]]
    events: EventLog
    meters: Meters
    store: ModelStore
    blobs: BlobServer
    clock: Callable[[], float]
    digest: str = ""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def as_json(content: object, status: int = 200) -> Response:
    """Return an answer."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def body(request: Request, *, most: int, what: str) -> bytes:
    """Return what the caller sent, or refuse more than `most` bytes of it."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise RequestError(413, f"{what} may have at most {most} bytes")
    return bytes(data)


def decoded(data: bytes, kind: type[M], *, what: str) -> M:
    """Return a message from its JSON, or refuse it with a sentence."""
    try:
        return decode(data, kind)
    except msgspec.MsgspecError as error:
        raise RequestError(400, f"this is not {what}: {error}") from None


def number(request: Request, name: str, *, default: int, most: int) -> int:
    """Return a query value from 1 to `most`, or refuse it."""
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS or not 1 <= int(text) <= most:
        raise RequestError(400, f"{name} must be a whole number from 1 to {most}", param=name)
    return int(text)


def flag(request: Request, name: str) -> bool:
    """Return a query value that is 0 (also when it is missing) or 1, or refuse it."""
    text = request.query_params.get(name, "0")
    if text not in {"0", "1"}:
        raise RequestError(400, f"{name} must be 0 or 1", param=name)
    return text == "1"


def accepts(request: Request, media: str) -> bool:
    """Say whether the caller names a media type; `*/*` does not count."""
    return media in request.headers.get("accept", "")
