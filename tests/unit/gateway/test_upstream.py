"""Connections to workers: kept, lost, let go, and spoken to in other words."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rbee_runtime.errors import LinkError
from rbee_runtime.framing import Headers
from rbee_runtime.gateway.upstream import MOST_IDLE, Pool, Upstream, fleet_pool, origin_of
from rbee_runtime.link import Link, Role
from tests.unit.certificates import issue_fleet
from tests.unit.gateway.gateway import ASK, PLAIN, STREAM, Gate, gateway
from tests.unit.gateway.upstream import STREAM_HEAD, Call, answer_json, say_hello, worker
from tests.unit.hive.waiting import until


async def test_connections_are_used_again_on_both_sides() -> None:
    """A hundred requests in a row need one connection of the client and one to the worker."""
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        for _ in range(100):
            await g.post(PLAIN)
        assert len({id(call.writer) for call in w.calls}) == 1


async def test_a_kept_connection_that_was_closed_meanwhile_costs_nobody_a_try() -> None:
    """The request goes out again over a new one, to the same worker, and the worker is not blamed."""

    async def once(call: Call) -> None:
        if len(w.calls) == 2:
            call.drop()
        else:
            await answer_json(call)

    async with worker(once) as w, gateway(Gate([w.url])) as g:
        assert [(await g.post(PLAIN)).status_code for _ in range(2)] == [200, 200]
        assert len(w.calls) == 3
        assert g.gate.settled == [(w.url, True)] * 2


async def test_a_request_that_a_worker_had_for_a_while_does_not_go_to_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be what broke the worker; another one has it."""
    monkeypatch.setattr("rbee_runtime.gateway.attempt.RACE_SECONDS", 0.1)

    async def once(call: Call) -> None:
        if len(bad.calls) == 1:
            await answer_json(call)
        else:
            await asyncio.sleep(0.4)
            call.drop()

    async with worker(once) as bad, worker(answer_json) as good, gateway(Gate([bad.url, good.url])) as g:
        assert [(await g.post(PLAIN)).status_code for _ in range(2)] == [200, 200]
        assert (len(bad.calls), len(good.calls)) == (2, 1)


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
        b"",
    ],
)
async def test_what_is_no_answer_is_a_failure_of_its_worker(says: bytes) -> None:
    """Whatever it says instead of HTTP, another worker steps in."""

    async def nonsense(call: Call) -> None:
        await call.write(says)
        call.writer.close()

    async with worker(nonsense) as bad, worker(answer_json) as good, gateway(Gate([bad.url, good.url])) as g:
        assert (await g.post(PLAIN)).json() == {"ok": True}
        assert g.gate.settled == [(bad.url, False), (good.url, True)]


async def test_a_name_that_cannot_be_read_is_a_failure_too() -> None:
    """What the resolver raises is no OSError."""
    bad = f"http://{'a' * 70}:1"
    async with worker(answer_json) as good, gateway(Gate([bad, good.url])) as g:
        assert (await asyncio.wait_for(g.post(PLAIN), 20)).json() == {"ok": True}
        assert g.gate.released == [bad, good.url]


@pytest.mark.parametrize(
    "says",
    [
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"ok": true}',
        b'HTTP/1.0 200 OK\r\ncontent-length: 12\r\n\r\n{"ok": true}',
        b'HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"ok": true}',
        b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"ok": true}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
    ],
    ids=["no length", "HTTP/1.0", "an interim answer", "one too many"],
)
async def test_an_answer_in_other_words_is_one(says: bytes) -> None:
    """It arrives as it was meant, and its connection is not used again where it cannot be."""

    async def answers(call: Call) -> None:
        await call.write(says)
        call.writer.close()

    async with worker(answers) as w, gateway(Gate([w.url])) as g:
        for _ in range(2):
            assert (await g.post(PLAIN)).json() == {"ok": True}


async def test_connections_of_a_busy_hour_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although requests go on over one of them, and their server would keep the others."""
    monkeypatch.setattr("rbee_runtime.gateway.upstream.IDLE_SECONDS", 0.3)

    async def waits(call: Call) -> None:
        await asyncio.sleep(0.2)
        await answer_json(call)

    async with worker(waits) as w, gateway(Gate([w.url])) as g:
        await asyncio.gather(*(g.post(PLAIN) for _ in range(10)))
        assert g.pool.idle == 10
        for _ in range(2):
            await g.post(PLAIN)
        assert g.pool.idle == 1


async def test_trailers_of_a_worker_are_bounded() -> None:
    """They would be collected for as long as they come."""

    async def goes_on(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.events("1")
        await call.write(b"0\r\nx: ")
        for _ in range(100):
            await call.write(b"y" * 64 * 1024)
            await asyncio.sleep(0.01)

    async with worker(goes_on) as w, gateway(Gate([w.url])) as g:
        assert "headers and trailers of its answer" in (await asyncio.wait_for(g.post(STREAM), 20)).text


@dataclass
class Ear:
    """Hears one answer and, if it does not keep up, has its connection read no more."""

    upstream: Upstream
    keeps_up: bool
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    def heard_head(self, status: int, headers: Headers) -> None:
        pass

    def heard_data(self, data: bytes) -> None:
        if not self.keeps_up:
            self.upstream.pause()

    def heard_end(self) -> None:
        self.whole.set()

    def heard_loss(self, why: str, *, silent: bool) -> None:
        raise AssertionError(why)


async def test_the_next_request_does_not_suffer_from_a_client_that_fell_behind() -> None:
    """A connection that was paused for the last bytes of one answer is read again for the next one."""
    async with worker(answer_json) as w:
        pool, origin = Pool(), origin_of(w.url)
        first = Ear(await pool.dial(origin), keeps_up=False)
        first.upstream.ask(ASK, first)
        await asyncio.wait_for(first.whole.wait(), 20)
        kept = pool.take(origin)
        assert kept is first.upstream
        second = Ear(kept, keeps_up=True)
        kept.ask(ASK, second)
        await asyncio.wait_for(second.whole.wait(), 5)
        pool.close()


async def test_what_came_unasked_is_no_answer() -> None:
    """Not even if it came in the very moment before the next request, and nobody has read it yet."""

    async def says(call: Call) -> None:
        await answer_json(call)
        if len(w.calls) == 1:
            said.append(call)

    said: list[Call] = []
    async with worker(says) as w:
        pool, origin = Pool(), origin_of(w.url)
        ear = Ear(await pool.dial(origin), keeps_up=True)
        ear.upstream.ask(ASK, ear)
        await asyncio.wait_for(ear.whole.wait(), 20)
        said[0].writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        assert pool.take(origin) is None
        pool.close()


@asynccontextmanager
async def tls_server(context: ssl.SSLContext | None) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_nothing_is_sent_to_a_stranger(tmp_path: Path) -> None:
    """A server with a certificate of the fleet but another role, or of another fleet, is not asked anything."""
    ours, theirs = issue_fleet(tmp_path / "a", "f"), issue_fleet(tmp_path / "b", "f")
    pool = fleet_pool(Link(Role.QUEEN, "f", ours), Role.WORKER)
    async with tls_server(Link(Role.WORKER, "f", ours).server_context()) as url:
        (await pool.dial(origin_of(url))).drop()
    async with tls_server(Link(Role.HIVE, "f", ours).server_context()) as url:
        with pytest.raises(LinkError, match="answered as rbee://f/hive/hive, expected role worker"):
            await pool.dial(origin_of(url))
    async with tls_server(Link(Role.WORKER, "f", theirs).server_context()) as url:
        with pytest.raises(ssl.SSLError):
            await pool.dial(origin_of(url))
    pool.close()


async def test_tls_without_certificates_is_a_sentence() -> None:
    """A laptop's queen has none."""
    with pytest.raises(LinkError, match="for which there are no certificates here"):
        await Pool().dial(origin_of("https://127.0.0.1:1"))


@pytest.mark.parametrize("url", ["ftp://a", "a:80", "http://", "unix:/x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """Before anything is dialled."""
    with pytest.raises(ValueError, match="no address"):
        origin_of(url)


async def test_a_burst_does_not_leave_its_connections_behind() -> None:
    """What it opened beyond a bound is closed when it is over."""
    started: list[Call] = []
    gate = asyncio.Event()

    async def waits(call: Call) -> None:
        started.append(call)
        await gate.wait()
        await answer_json(call)

    async with worker(waits) as w, gateway(Gate([w.url])) as g:
        asking = [asyncio.create_task(g.post(PLAIN)) for _ in range(MOST_IDLE + 20)]
        await until(lambda: len(started) == MOST_IDLE + 20)
        gate.set()
        assert {(await each).status_code for each in asking} == {200}
        assert g.pool.idle == MOST_IDLE


async def test_a_stream_goes_on_over_a_kept_connection() -> None:
    """A connection that carried a stream carries the next request."""
    async with worker(say_hello) as w, gateway(Gate([w.url])) as g:
        for _ in range(3):
            assert (await g.post(STREAM)).text.endswith("[DONE]\n\n")
        assert len({id(call.writer) for call in w.calls}) == 1
