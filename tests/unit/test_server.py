"""The HTTP server against clients that never get to the point."""

import asyncio
import contextlib
import errno
import os
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from socket import socket

import pytest
from starlette.responses import PlainTextResponse

from rbee_runtime import server
from rbee_runtime.config import TlsFiles
from rbee_runtime.errors import ConfigError
from rbee_runtime.http_connection import HEAD_BYTES
from rbee_runtime.queen.serve import client_context
from rbee_runtime.server import HttpServer, bind
from tests.unit.certificates import issue_fleet


@contextlib.asynccontextmanager
async def serving(says: str = "hello", tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve the same answer to anything and yield the port."""
    listener = bind("127.0.0.1", 0)
    server = HttpServer(PlainTextResponse(says), tls=tls, drain_seconds=1)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Give the port of a server that answers anything."""
    async with serving() as number:
        yield number


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nx-slow: ", b"GET / HTTP/1.1\r\n\r\nGET / HT"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    port: int, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent connection and an unfinished head end after the limit, a first request or a second one."""
    monkeypatch.setattr("rbee_runtime.http_connection.HEAD_SECONDS", 0.2)
    await ends(port, said)


async def ends(port: int, said: bytes) -> None:
    """Return once a connection on which that was said, and no more, has been ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a beginning"])
async def test_a_handshake_that_does_not_come_is_not_waited_for(
    said: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Over TLS a connection is nobody's until then, and would stay for a minute; listeners without it are as ever."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    files = issue_fleet(tmp_path, "test")
    context = client_context(TlsFiles(certificate=files / "queen.pem", key=files / "queen.key"))
    # Others beside it, with TLS and without, as a queen has them.
    async with serving(), serving(tls=context), serving(tls=context) as number, serving() as plain:
        await ends(number, said)
        reader, writer = await asyncio.open_connection("127.0.0.1", plain)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    "said",
    [
        [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"],
        [b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n", b"abc"],
    ],
    ids=["an empty line behind", "a body behind"],
)
async def test_an_answered_connection_is_not_kept_for_ever(said: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else comes that is no request, it ends when nobody asks again."""
    monkeypatch.setattr("rbee_runtime.server.KEEP_ALIVE_SECONDS", 0.4)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in said:
            writer.write(part)
            await asyncio.sleep(0.1)
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"hello")
        writer.close()


async def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its last answer too, where nobody else waits for it."""
    monkeypatch.setattr("rbee_runtime.http_connection.TAKING_SECONDS", 0.2)
    async with serving("x" * 20_000_000) as port:
        for end in (b"", b"connection: close\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n" + end + b"\r\n")
            await asyncio.sleep(1)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(20_000_000), 5)
            writer.close()


async def test_a_body_that_goes_wrong_behind_its_answer_has_no_second_one(port: int) -> None:
    """The next answer on the connection would be taken for another request's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    await reader.readuntil(b"hello")
    writer.write(b"zz\r\n")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def _go_on(writer: asyncio.StreamWriter) -> None:
    for _ in range(100):
        writer.write(b"a" * HEAD_BYTES)
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nx-long: ",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
    ],
    ids=["a head", "trailers"],
)
async def test_headers_without_end_are_cut(port: int, said: bytes) -> None:
    """They are collected up to a limit only, behind a body too, where nobody reads them."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    with pytest.raises(ConnectionError):
        await _go_on(writer)
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
