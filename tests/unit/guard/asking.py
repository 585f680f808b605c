"""A hive that writes to the guard by hand."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rbee_runtime.guard.config import EngineKind
from tests.unit.guard.recording_engine import RecordingEngine

LIBPOD = "/v5.8.0/libpod"
PREFIXES = {EngineKind.PODMAN: LIBPOD, EngineKind.DOCKER: "/v1.45"}


async def exchange(socket: Path, raw: bytes, *, end: bool = False) -> bytes:
    """Send bytes and return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(raw)
    if end:
        writer.write_eof()
    async with asyncio.timeout(10):
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
    writer.close()
    return said


def written(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a request as bytes."""
    length = (f"Content-Length: {len(body)}",) if body else ()
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *length, *headers, "", ""]).encode() + body


def understood(said: bytes) -> tuple[int, Any]:
    """Return status and document of an answer."""
    head, _, content = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content) if content else None


async def ask(socket: Path, method: str, target: str, document: Any = None) -> tuple[int, Any]:
    """Ask one question."""
    body = b"" if document is None else json.dumps(document).encode()
    return understood(await exchange(socket, written(method, target, body)))


def create_target(kind: EngineKind, worker: str = "w-1") -> str:
    """Return where a container is made."""
    name = f"?{urlencode({'name': f'rbee-worker-{worker}'})}" if kind is EngineKind.DOCKER else ""
    return f"{PREFIXES[kind]}/containers/create{name}"


def created(engine: RecordingEngine) -> list[Any]:
    """Return the bodies of containers that the engine was asked to make."""
    return [each.body for each in engine.asked if each.path.endswith("/containers/create")]
