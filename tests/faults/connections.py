"""Connections of clients that do not behave as a library's client would, to a port of this machine."""

import asyncio
import contextlib
import json
from collections.abc import Mapping

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]
CHAT = "/v1/chat/completions"


async def sent(port: int, key: str, body: Mapping[str, object], *, limit: int = 65536) -> Connected:
    """Return a connection of its own with a request on its way; `key` may be none, `limit` is of what is read ahead."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    lines = [
        f"POST {CHAT} HTTP/1.1",
        "host: x",
        *([f"authorization: Bearer {key}"] if key else []),
        "content-type: application/json",
        f"content-length: {len(content)}",
    ]
    writer.write("\r\n".join((*lines, "", "")).encode() + content)
    return reader, writer


async def read_slowly(port: int, key: str, body: Mapping[str, object]) -> None:
    """Read an answer at a KiB a second, as long as it goes on."""
    reader, writer = await sent(port, key, body, limit=1024)
    try:
        while await reader.read(1024):  # noqa: ASYNC110 - that is how slowly it reads
            await asyncio.sleep(1.0)
    finally:
        writer.close()


async def open_and_close(port: int, count: int) -> None:
    """Open and close connections, one in ten with the beginning of a request."""
    for number in range(count):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            if number % 10 == 0:
                writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode())
            writer.close()
            await writer.wait_closed()
