"""What the gateway refuses before anything else happens."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.gateway.gateway import Gate, gateway, limits


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"{}", "model"),
        (b'{"model": 7}', "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": "m", "stream": "yes"}', "stream"),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_field(body: bytes, param: str | None) -> None:
    """Bad input gets one OpenAI-shaped sentence and reaches no worker."""
    async with gateway(Gate([])) as g:
        answer = await g.client.post(g.url, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert answer.headers["x-should-retry"] == "false"


async def test_a_declared_length_over_the_limit_is_refused_at_once() -> None:
    """A too large body is refused by its header."""
    async with gateway(Gate([]), limits(body_bytes=1000)) as g:
        answer = await g.client.post(g.url, content=b"x" * 1001)
        assert answer.status_code == 413


async def test_a_chunked_body_over_the_limit_is_refused() -> None:
    """A body without a declared length is counted."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    async with gateway(Gate([]), limits(body_bytes=1000)) as g:
        assert (await g.client.post(g.url, content=pieces())).status_code == 413


async def test_a_body_that_does_not_arrive_is_a_408() -> None:
    """A client that announces a body and sends none does not hold a connection for ever."""
    async with gateway(Gate([]), limits(body_seconds=0.2)) as g:
        host, port = g.url.split("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 20)
        writer.close()
