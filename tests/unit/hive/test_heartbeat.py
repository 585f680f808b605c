"""Heartbeats to a queen that is a real server in this test."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rbee_runtime.hive.rhythm import Rhythm
from rbee_runtime.protocol import EPOCH, Heartbeat, HeartbeatAck, encode
from rbee_runtime.server import HttpServer, bind
from tests.unit.hive.conftest import TOKEN, Start, desired, fake
from tests.unit.hive.waiting import until


class QueenServer:
    """Keeps what it hears; `status` is what it answers as a queen of `epoch`, after `delay` seconds."""

    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []
        self.tokens: set[str] = set()
        self.status = 200
        self.url = ""
        self.delay = 0.0
        self.epoch = 1

    async def heartbeat(self, request: Request) -> Response:
        self.heard.append(msgspec.json.decode(await request.body(), type=Heartbeat))
        self.tokens.add(request.headers["x-rbee-token"])
        await asyncio.sleep(self.delay)
        return Response(encode(HeartbeatAck(fleet="t", epoch=self.epoch, revision=1)), self.status)


@pytest.fixture
async def server() -> AsyncIterator[QueenServer]:
    queen = QueenServer()
    app = Starlette(routes=[Route("/api/v1/hives/h1/heartbeat", queen.heartbeat, methods=["POST"])])
    listener = bind("127.0.0.1", 0)
    queen.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    http = HttpServer(app, tls=None, drain_seconds=1)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    await http.wait_started()
    yield queen
    http.should_exit = True
    await serving


def artefact(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(json.dumps({"name": "llama-cpp", "version": folder.name.split("-")[2]}))


def last(server: QueenServer, **fields: Any) -> list[Heartbeat]:
    return [beat for beat in server.heard if all(getattr(beat, name) == value for name, value in fields.items())]


async def test_a_heartbeat_tells_all(start: Start, server: QueenServer) -> None:
    """The first one comes by itself with name, URL, engines and devices, and carries the link's token."""
    hive, _ = await start(queen_url=server.url)
    await until(lambda: server.heard)
    beat = server.heard[0]
    assert (beat.hive, beat.url, beat.engines) == ("h1", f"http://127.0.0.1:{hive.config.port}", ("fake",))
    assert (beat.epoch, beat.revision, len(beat.devices)) == (0, 0, 1)
    assert server.tokens == {TOKEN}


async def test_a_change_is_told_at_once(start: Start, server: QueenServer) -> None:
    """With a period of an hour the queen still hears that a worker started and became ready."""
    _, queen = await start(queen_url=server.url, heartbeat_seconds=3600)
    await until(lambda: server.heard)
    await queen.put(desired(1, fake("w-1", load_s="0.3")))
    await until(lambda: server.heard[-1].workers and server.heard[-1].workers[0].state == "ready")
    assert (server.heard[-1].epoch, server.heard[-1].revision) == (1, 1)
    assert len(server.heard) <= 6


async def test_another_engine_build_is_told_at_once(
    start: Start, server: QueenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a period of an hour the queen hears of a newer engine, and of one that is taken away again."""
    monkeypatch.setattr("rbee_runtime.hive.disk.DISK_SECONDS", 0.1)
    old, new = (tmp_path / "engines" / f"llama-cpp-0.3.{number}-cpu-{number}" for number in (9, 36))
    artefact(old)
    await start(queen_url=server.url, heartbeat_seconds=3600)
    await until(lambda: server.heard and server.heard[-1].builds == {"fake": "", "llama-cpp": old.name})
    artefact(new)
    await until(lambda: server.heard[-1].builds["llama-cpp"] == new.name)
    shutil.rmtree(new)
    await until(lambda: server.heard[-1].builds["llama-cpp"] == old.name)
    assert server.heard[-1].engines == ("fake", "llama-cpp")


async def test_a_refusing_queen_is_logged_once(
    start: Start, server: QueenServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors are told when they begin and when they end, not with each heartbeat."""
    server.status = 500
    hive, _ = await start(queen_url=server.url, heartbeat_seconds=0.05)
    await until(lambda: len(server.heard) > 5)
    assert hive.summary == "0 workers ready, queen not reachable"
    server.status = 200
    await until(lambda: hive.heartbeats.queen == "reachable")
    said = capsys.readouterr().err
    assert (said.count("queen_silent"), said.count("queen_answers")) == (1, 1)


async def test_a_lost_heartbeat_does_not_put_off_the_next(
    start: Start, server: QueenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has no answer is followed as soon as any; where several have none, the pause begins after each."""
    pauses: list[float] = []

    def pause(rhythm: Rhythm, asked: Callable[[Rhythm], float] = Rhythm.pause) -> float:
        pauses.append(asked(rhythm))
        return pauses[-1]

    monkeypatch.setattr(Rhythm, "pause", pause)
    monkeypatch.setattr("rbee_runtime.hive.heartbeat.DEADLINE_SECONDS", 0.9)
    server.delay = 60.0
    await start(queen_url=server.url, heartbeat_seconds=1.0)
    await until(lambda: len(pauses) > 2)
    assert pauses[0] <= 0.2
    assert all(0.899 <= each <= 1.101 for each in pauses[1:3])
    assert server.heard


async def test_each_start_is_another_incarnation(start: Start, server: QueenServer) -> None:
    """The queen can tell a restarted hive from one that went on."""
    first, _ = await start(queen_url=server.url)
    await until(lambda: server.heard)
    await first.stop(stop_workers=False)
    await start(queen_url=server.url)
    await until(lambda: len({beat.incarnation for beat in server.heard}) == 2)


@pytest.mark.parametrize("epoch", [1, 3])
async def test_only_the_queen_who_answers_commands(
    start: Start, server: QueenServer, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """One on a copy of the state, elsewhere, gets 409 for documents and orders; nothing of what she says is done."""
    monkeypatch.setattr("rbee_runtime.hive.obedience.PATIENCE_SECONDS", 0.2)
    server.epoch = 2
    hive, queen = await start(queen_url=server.url)
    await until(lambda: hive.heartbeats.queen == "reachable")
    url = f"http://127.0.0.1:{hive.config.port}/api/v1"
    assert (await queen.put(desired(1, epoch=2))).status_code == 200
    orders = [("POST", "drain", b'{"drain": true}'), ("POST", "models/m/verify", b""), ("DELETE", "models/m", b"")]
    refused = [await queen.put(desired(5, fake("w-1"), epoch=epoch))]
    for method, path, body in orders:
        refused.append(await queen.client.request(method, f"{url}/{path}", content=body, headers={EPOCH: str(epoch)}))
    assert {(each.status_code, each.json()["error"]["code"]) for each in refused} == {(409, "stale_desired")}
    assert all(f"at {server.url} is of epoch 2" in each.json()["error"]["message"] for each in refused)
    assert (await queen.get("/api/v1/workers")).json() == []
    mine = await queen.client.post(f"{url}/drain", content=b'{"drain": true}', headers={EPOCH: "2"})
    assert (mine.status_code, mine.json()["draining"]) == (200, True)


async def test_a_queen_that_was_restarted_commands_at_once(start: Start, server: QueenServer) -> None:
    """Her document may come before the answer by which a hive hears of her next epoch."""
    hive, queen = await start(queen_url=server.url, heartbeat_seconds=3600)
    await until(lambda: hive.heartbeats.queen == "reachable")
    server.epoch = 2
    sending = asyncio.create_task(queen.put(desired(1, epoch=2)))
    await asyncio.sleep(0.1)
    assert not sending.done()
    hive.heartbeats.changed()
    assert (await sending).status_code == 200


@pytest.mark.parametrize("epoch", ["", "x", "-1", "1.5", "9" * 11, "٣"])
async def test_an_epoch_that_is_none_is_refused(start: Start, server: QueenServer, epoch: str) -> None:
    """An order is carried out or not; nothing is guessed."""
    hive, queen = await start(queen_url=server.url)
    url = f"http://127.0.0.1:{hive.config.port}/api/v1/drain"
    answer = await queen.client.post(url, content=b'{"drain": true}', headers=[(EPOCH.encode(), epoch.encode())])
    assert answer.status_code == 400
    assert EPOCH in answer.json()["error"]["message"]
