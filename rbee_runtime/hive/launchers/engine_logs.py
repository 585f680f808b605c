"""The log of a container, read over the engine's socket: one wire form for both engines, and it ends when we say so."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import httpx

from rbee_runtime.errors import LauncherError

Lines = AsyncGenerator[str, None]

HEADER = 8
"""Bytes before each piece of output: which stream, three zeros, its length as four bytes."""

LINE_BYTES = 64 * 1024
"""A line without an end is shown in pieces of this size, so that no worker fills the hive's memory."""

CONNECT_SECONDS = 10.0


async def read(socket: Path, container: str, lines: int, *, follow: bool) -> Lines:
    """Yield the last `lines` lines and, with `follow`, each new one until the container ends; LauncherError."""
    wanted = {"stdout": "true", "stderr": "true", "tail": str(lines), "follow": str(follow).lower()}
    timeout = httpx.Timeout(CONNECT_SECONDS, read=None if follow else CONNECT_SECONDS)
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    try:
        async with (
            httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"http://localhost/containers/{container}/logs", params=wanted) as answer,
        ):
            if answer.status_code != 200:
                said = (await answer.aread()).decode(errors="replace").strip()
                raise LauncherError(f"the log of {container} cannot be read: {said}")
            async for line in split(answer.aiter_raw()):
                yield line
    except httpx.HTTPError as error:
        raise LauncherError(
            f"the log of {container} cannot be read at {socket}: {error or type(error).__name__}"
        ) from error


async def split(blocks: AsyncIterator[bytes]) -> Lines:
    """Yield the lines in an engine's stream; output and errors are told apart by nobody here."""
    pending, text = bytearray(), bytearray()
    async for block in blocks:
        pending += block
        _take_pieces(pending, text)
        while (end := text.find(b"\n")) >= 0 or len(text) >= LINE_BYTES:
            cut = end if 0 <= end < LINE_BYTES else LINE_BYTES
            yield text[:cut].decode(errors="replace").rstrip("\r")
            del text[: cut + (cut == end)]
    if text:
        yield text.decode(errors="replace")


def _take_pieces(pending: bytearray, text: bytearray) -> None:
    """Move what each complete piece holds from one buffer to the other."""
    while len(pending) >= HEADER:
        size = int.from_bytes(pending[4:HEADER])
        if len(pending) < HEADER + size:
            return
        text += pending[HEADER : HEADER + size]
        del pending[: HEADER + size]
