"""The HTTP server against clients that never get to the point."""

import asyncio
import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator
from socket import socket

import pytest
from starlette.responses import PlainTextResponse

from rbee_runtime import server
from rbee_runtime.errors import ConfigError
from rbee_runtime.http_connection import HEAD_BYTES
from rbee_runtime.server import HttpServer, bind


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Give the port of a server that answers anything."""
    listener = bind("127.0.0.1", 0)
    server = HttpServer(PlainTextResponse("hello"), tls=None, drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nx-slow: ", b"GET / HTTP/1.1\r\n\r\nGET / HT"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    port: int, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent connection and an unfinished head end after the limit, a first request or a second one."""
    monkeypatch.setattr("rbee_runtime.http_connection.HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()


async def test_a_head_without_end_is_cut(port: int) -> None:
    """Headers are collected up to a limit only."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nx-long: ")

    async def go_on() -> None:
        for _ in range(100):
            writer.write(b"a" * HEAD_BYTES)
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(ConnectionError):
        await go_on()
    writer.close()


async def test_a_long_body_is_no_long_head(port: int) -> None:
    """What follows the headers does not count."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b"a" * (3 * HEAD_BYTES)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 16384):
        writer.write(body[start : start + 16384])
        await writer.drain()
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EADDRINUSE, "stop what uses it (`ss -ltnp 'sport = :80'`;"),
        (errno.EACCES, "ports this low are root's: choose another port"),
        (errno.EADDRNOTAVAIL, "this host has no such address"),
        (errno.ENOBUFS, "choose another port"),
    ],
)
def test_a_port_that_cannot_be_had_is_told_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """Only one that is in use is freed by stopping what uses it."""

    class Refusing(socket):
        def bind(self, _: object) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(server, "socket", Refusing)
    with pytest.raises(ConfigError, match=re.escape(f"{os.strerror(number)}; {said}")):
        bind("127.0.0.1", 80)


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where its request is answered already and nobody reads it."""
    monkeypatch.setattr("rbee_runtime.http_connection.BODY_SECONDS", 0.2)
    listener = bind("127.0.0.1", 0)
    server = HttpServer(PlainTextResponse("hello"), tls=None, drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    server.should_exit = True
    await serving
