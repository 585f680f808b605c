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

from rbee_runtime.config import HiveConfig
from rbee_runtime.hive.rhythm import Rhythm
from rbee_runtime.protocol import QUEEN, Heartbeat, HeartbeatAck, encode
from rbee_runtime.server import HttpServer, bind
from tests.unit.hive.conftest import TOKEN, Start, desired, fake
from tests.unit.hive.waiting import until

REAL = "1-" + "a" * 16
DRAIN = b'{"drain": true}'


class QueenServer:
    """Keeps what it hears; `status` is what it answers as `queen`, after `delay` seconds."""

    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []
        self.tokens: set[str] = set()
        self.status = 200
        self.url = ""
        self.delay = 0.0
        self.queen = REAL

    async def heartbeat(self, request: Request) -> Response:
        self.heard.append(msgspec.json.decode(await request.body(), type=Heartbeat))
        self.tokens.add(request.headers["x-rbee-token"])
        await asyncio.sleep(self.delay)
        return Response(encode(HeartbeatAck(fleet="t", epoch=1, revision=1, queen=self.queen)), self.status)


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


@pytest.mark.parametrize("queen", ["1-" + "b" * 16, "2-" + "b" * 16, "3-" + "b" * 16])
async def test_only_the_queen_who_answers_commands(
    start: Start, server: QueenServer, monkeypatch: pytest.MonkeyPatch, queen: str
) -> None:
    """One on a copy of the state, elsewhere, gets 409 for documents and orders whatever her epoch; nothing is done."""
    monkeypatch.setattr("rbee_runtime.hive.obedience.PATIENCE_SECONDS", 0.3)
    hive, real = await start(queen_url=server.url, heartbeat_seconds=3600)
    await until(lambda: hive.heartbeats.queen == "reachable")
    url = f"http://127.0.0.1:{hive.config.port}/api/v1"
    document = encode(desired(5, fake("w-1"), epoch=2))
    orders = [("PUT", "desired", document), ("POST", "drain", DRAIN), ("DELETE", "models/m", b"")]
    for method, path, body in (*orders, ("POST", "models/m/verify", b"")):
        answer = await real.client.request(method, f"{url}/{path}", content=body, headers={QUEEN: queen})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stale_desired")
        assert f"heartbeats at {server.url}" in answer.json()["error"]["message"]
    assert (await real.get("/api/v1/workers")).json() == []
    mine = await real.client.post(f"{url}/drain", content=DRAIN, headers={QUEEN: REAL})
    assert (mine.status_code, mine.json()["draining"]) == (200, True)


async def test_a_queen_that_was_restarted_commands_at_once(start: Start, server: QueenServer) -> None:
    """Her first order may come before any heartbeat of this hive: it asks who is there, and carries it out."""
    hive, queen = await start(queen_url=server.url, heartbeat_seconds=3600)
    await until(lambda: hive.heartbeats.queen == "reachable")
    server.queen = "2-" + "c" * 16
    url = f"http://127.0.0.1:{hive.config.port}/api/v1/drain"
    answer = await queen.client.post(url, content=DRAIN, headers={QUEEN: server.queen})
    assert answer.status_code == 200


async def test_an_older_queen_is_refused_by_the_mark_alone(start: Start, settings: HiveConfig) -> None:
    """With a damaged document, and before anybody answered a heartbeat, what was followed once still counts."""
    first, queen = await start()
    assert (await queen.put(desired(1, epoch=7))).status_code == 200
    await first.stop(stop_workers=True)
    (settings.state_dir / "desired.json").write_text("{")
    hive, queen = await start()
    url = f"http://127.0.0.1:{hive.config.port}/api/v1/drain"
    codes = [
        (await queen.client.post(url, content=DRAIN, headers={QUEEN: f"{epoch}-{'a' * 16}"})).status_code
        for epoch in (3, 7)
    ]
    assert codes == [409, 200]


async def test_a_queen_of_an_older_release_is_obeyed(start: Start, server: QueenServer) -> None:
    """Hosts and queen are upgraded one after the other: neither who does not say who she is, nor who is not told."""
    server.queen = ""
    hive, queen = await start(queen_url=server.url)
    await until(lambda: hive.heartbeats.queen == "reachable")
    url = f"http://127.0.0.1:{hive.config.port}/api/v1/drain"
    answers = [await queen.client.post(url, content=DRAIN, headers=each) for each in ({}, {QUEEN: REAL})]
    assert [each.status_code for each in answers] == [200, 200]


@pytest.mark.parametrize(
    "queen", ["", "x", "1", "-1", "1-", "1.5-" + "a" * 16, "9" * 11 + "-" + "a" * 16, "٣-" + "a" * 16]
)
async def test_a_signature_that_is_none_is_refused(start: Start, server: QueenServer, queen: str) -> None:
    """An order is carried out or not; nothing is guessed."""
    hive, real = await start(queen_url=server.url)
    url = f"http://127.0.0.1:{hive.config.port}/api/v1/drain"
    answer = await real.client.post(url, content=DRAIN, headers=[(QUEEN.encode(), queen.encode())])
    assert answer.status_code == 400
    assert QUEEN in answer.json()["error"]["message"]
