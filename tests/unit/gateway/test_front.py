"""A client's connection: slow, in older words, asked on again, and what it hears when an answer breaks off."""

import asyncio
import tracemalloc

import httpx
import pytest

from tests.unit.gateway.gateway import ASK, PLAIN, STREAM, Gate, Gateway, gateway, limits
from tests.unit.gateway.upstream import STREAM_HEAD, Call, answer_json, say_hello, worker
from tests.unit.hive.waiting import until


async def raw(g: Gateway, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = g.url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    return reader, writer


async def test_a_client_of_http_1_0_hears_the_end_of_its_connection() -> None:
    """It knows no chunks."""
    async with worker(say_hello) as w, gateway(Gate([w.url])) as g:
        body = b'{"model":"m","stream":true}'
        head = b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body)
        reader, writer = await raw(g, head + body)
        said = await asyncio.wait_for(reader.read(), 20)
        assert said.endswith(b'\r\n\r\ndata: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n')
        assert b"chunked" not in said
        writer.close()


async def test_a_refused_request_leaves_its_connection_of_use() -> None:
    """The body that still comes is not taken for a request."""
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        reader, writer = await raw(g, ASK.replace(b"13", b"99999999"))
        assert b" 413 " in await asyncio.wait_for(reader.readuntil(b"}}"), 20)
        writer.write(ASK)
        await asyncio.sleep(0.1)
        assert not w.calls
        writer.close()


async def test_a_connection_that_is_used_otherwise_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the application answers on it counts as use, and so does a body that comes late."""
    monkeypatch.setattr("rbee_runtime.server.KEEP_ALIVE_SECONDS", 0.6)
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        reader, writer = await raw(g, ASK)
        await asyncio.wait_for(reader.readuntil(b"true}"), 20)
        for _ in range(4):
            await asyncio.sleep(0.25)
            writer.write(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"not relayed"), 20)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_refused_request_does_not_keep_its_connection_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body may end long after the answer, whenever it was looked whether anybody uses the connection."""
    monkeypatch.setattr("rbee_runtime.server.KEEP_ALIVE_SECONDS", 0.5)
    async with gateway(Gate([]), limits(body_bytes=5)) as g:
        reader, writer = await raw(g, ASK)
        await asyncio.sleep(0.4)
        writer.write(ASK[:-5])
        await asyncio.sleep(0.3)
        writer.write(ASK[-5:])
        assert (await asyncio.wait_for(reader.read(), 5)).count(b"HTTP/1.1 413") == 2
        writer.close()


async def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    """A client that asks and asks and reads nothing is heard no more until it does."""

    async def long(call: Call) -> None:
        await call.json(200, b'"' + b"x" * 500_000 + b'"')

    async with worker(long) as w, gateway(Gate([w.url])) as g:
        _, writer = await raw(g, b"")
        for asked in range(200):
            writer.write(ASK)
            await asyncio.sleep(0.01)
            if len(w.calls) < asked - 20:
                break
        assert len(w.calls) < 100
        writer.close()
        await asyncio.wait_for(g.relay.wait_idle(), 20)


async def test_a_client_that_reads_slowly_does_not_fill_our_memory() -> None:
    """The worker is read no faster than its client: it cannot send all that it has."""
    sent = 0

    async def flood(call: Call) -> None:
        nonlocal sent
        await call.write(STREAM_HEAD)
        for _ in range(2000):
            await call.events("x" * 50_000)
            sent += 50_000
        await call.events("[DONE]")
        await call.end()

    async with worker(flood) as w, gateway(Gate([w.url])) as g:
        body = b'{"model":"m","stream":true}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        reader, writer = await raw(g, head + body)
        await until(lambda: sent)
        await asyncio.sleep(0.3)
        assert sent < 20_000_000
        total = 0
        while b"[DONE]" not in (data := await asyncio.wait_for(reader.read(1 << 20), 20)):
            total += len(data)
        assert total > 100_000_000 - (1 << 20)
        writer.close()


async def test_no_error_hides_in_an_event_that_broke_off() -> None:
    """Of a long event, a part is out: the answer breaks off, which every client notices."""

    async def breaks(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.chunk(b"data: " + b"x" * 100_000)
        await asyncio.sleep(0.2)
        call.drop()

    async with worker(breaks) as w, gateway(Gate([w.url])) as g:
        with pytest.raises(httpx.RemoteProtocolError):
            await g.post(STREAM)
        assert g.gate.settled == [(w.url, False)]


async def test_no_error_hides_in_a_long_refusal_that_broke_off() -> None:
    """A stream was asked for, and what came instead is no stream."""

    async def breaks(call: Call) -> None:
        await call.write(b"HTTP/1.1 400 X\r\ncontent-length: 1500000\r\n\r\n" + b"x" * 1_200_000)
        await asyncio.sleep(0.2)
        call.drop()

    async with worker(breaks) as w, gateway(Gate([w.url])) as g:
        with pytest.raises(httpx.RemoteProtocolError):
            await g.post(STREAM)


async def test_a_body_in_tiny_chunks_costs_what_it_has_bytes() -> None:
    """However a client cuts it."""
    async with gateway(Gate([])) as g:
        _, writer = await raw(g, ASK[: ASK.index(b"content-length")] + b"transfer-encoding: chunked\r\n\r\n")
        tracemalloc.start()
        for _ in range(20):
            writer.write(b"2\r\nab\r\n" * 10_000)
            await asyncio.sleep(0.02)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8_000_000
        writer.close()
        await asyncio.wait_for(g.relay.wait_idle(), 20)


async def test_an_answer_without_a_body_has_no_length() -> None:
    """Strict clients take it for a fault."""

    async def says(call: Call) -> None:
        await call.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with worker(says) as w, gateway(Gate([w.url])) as g:
        answer = await g.post(PLAIN)
        assert (answer.status_code, answer.headers.get("content-length")) == (204, None)
