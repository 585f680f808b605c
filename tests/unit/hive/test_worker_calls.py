"""The hive's own small client for its workers, against real servers."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from rbee_runtime.errors import LinkError
from rbee_runtime.hive.worker_calls import MAX_BYTES, Reply, WorkerCallError, WorkerCalls
from rbee_runtime.link import Link, Role
from tests.unit.certificates import issue_fleet
from tests.unit.hive.waiting import until
from tests.unit.queen.test_link import listening

LAPTOP = Link(Role.HIVE, "f", token="t")


class Peer:
    """A bare server that says given bytes to each request and counts connections."""

    def __init__(self, said: bytes, *, close: bool = False) -> None:
        self.connections = 0
        self._said = said
        self._close = close

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while (await reader.readline()).strip():
            pass
        while True:
            writer.write(self._said)
            if self._close:
                break
            if not await reader.readline():
                break
            while (await reader.readline()).strip():
                pass
        writer.close()

    def was_called(self, times: int) -> bool:
        return self.connections == times

    async def start(self) -> tuple[asyncio.Server, str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def calls() -> AsyncIterator[WorkerCalls]:
    made = WorkerCalls(LAPTOP)
    yield made
    made.close()


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(("close", "connections"), [(False, 1), (True, 3)])
async def test_a_connection_is_kept_or_made_again(calls: WorkerCalls, close: bool, connections: int) -> None:
    """Questions go over one connection; one that the worker closed meanwhile is replaced without an error."""
    peer = Peer(GOOD, close=close)
    server, url = await peer.start()
    for _ in range(3):
        assert await calls.get(url, "/ready") == Reply(200, b"ok")
        await asyncio.sleep(0.05)
    assert peer.connections == connections
    calls.close()
    server.close()


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + bytes(MAX_BYTES + 1)],
)
async def test_nonsense_is_refused(calls: WorkerCalls, said: bytes) -> None:
    """What is not HTTP, or far too long, is an error and costs no memory."""
    server, url = await Peer(said).start()
    with pytest.raises(WorkerCallError):
        await asyncio.wait_for(calls.get(url, "/ready"), 10)
    server.close()


async def test_a_late_answer_is_nobody_elses(calls: WorkerCalls) -> None:
    """After a question that was given up the next one gets its own connection."""
    peer = Peer(b"")
    server, url = await peer.start()
    for number in (1, 2):
        asking = asyncio.create_task(calls.get(url, "/ready"))
        await until(partial(peer.was_called, number))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert peer.connections == 2
    server.close()


async def test_nobody_there_is_an_os_error(calls: WorkerCalls) -> None:
    """A refused connection says so."""
    with pytest.raises(ConnectionRefusedError):
        await calls.get("http://127.0.0.1:9", "/ready")


@pytest.mark.parametrize(("role", "good"), [(Role.WORKER, True), (Role.QUEEN, False)])
async def test_only_a_worker_may_answer(tmp_path: Path, role: Role, good: bool) -> None:
    """Over TLS another role of the fleet on a worker's port is refused before anything is asked."""
    folder = issue_fleet(tmp_path, "f")
    calls = WorkerCalls(Link(Role.HIVE, "f", folder))
    async with listening(PlainTextResponse("ok"), Link(role, "f", folder)) as url:
        if good:
            assert await calls.get(url, "/x") == Reply(200, b"ok")
        else:
            with pytest.raises(LinkError, match="expected role worker"):
                await calls.get(url, "/x")
        calls.close()
