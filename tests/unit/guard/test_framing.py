"""The hive's side of HTTP: one request per connection, whole and bounded, with one meaning, or none at all."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from rbee_runtime.guard import framing, serving
from rbee_runtime.guard.config import EngineKind, GuardConfig
from tests.unit.guard.asking import LIBPOD, ask, exchange, understood, written
from tests.unit.guard.conftest import guarding
from tests.unit.guard.recording_engine import RecordingEngine
from tests.unit.hive.waiting import until

INFO = f"{LIBPOD}/info"
STOP = f"{LIBPOD}/containers/rbee-worker-w/stop?timeout=0"


@pytest.fixture
def kind() -> EngineKind:
    return EngineKind.PODMAN


@pytest.mark.parametrize(
    ("raw", "status", "said"),
    [
        (written("GET", INFO, b"", "Content-Length: 0", "Transfer-Encoding: chunked"), 400, "has both Content-Length"),
        (written("POST", INFO, b"", "Content-Length: 1", "Content-Length: 2") + b"x", 400, "is no HTTP"),
        (written("GET", INFO, b"", "Content-Length: -1"), 400, "is no HTTP"),
        (written("GET", INFO, b"", "Content-Length: +1") + b"x", 400, "is no HTTP"),
        (written("GET", INFO, b"", "Transfer-Encoding: gzip, chunked"), 501, "is no HTTP"),
        (written("GET", INFO, b"", "Transfer-Encoding: xchunked"), 501, "is no HTTP"),
        (written("GET", INFO, b"", "Transfer-Encoding : chunked"), 400, "is no HTTP"),
        (written("GET", INFO, b"", "X: a\0b"), 400, "is no HTTP"),
        (written("POST", INFO, b"", "Transfer-Encoding: chunked") + b"zz\r\nx\r\n", 400, "is no HTTP"),
        (b"GET " + INFO.encode() + b" HTTP/1.0\r\n\r\n", 400, "is not HTTP/1.1"),
        (b"GET " + INFO.encode() + b" HTTP/1.1\r\n\r\n", 400, "is no HTTP"),
        (b"GET " + INFO.encode() + b"\r\n\r\n", 400, "is no HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "is no HTTP"),
        (written("GET", INFO, b"", "Upgrade: tcp", "Connection: Upgrade"), 400, "the header upgrade is not taken"),
        (written("POST", STOP, b"", "Expect: 100-continue"), 400, "the header expect is not taken"),
        (written("GET", INFO, b"", f"X: {'x' * 2 * framing.HEAD_BYTES}"), 431, "is no HTTP"),
        (
            written("POST", f"{LIBPOD}/containers/create", b" " * (framing.BODY_BYTES + 1)),
            413,
            "more than 1048576 bytes",
        ),
        (written("GET", INFO) + written("POST", STOP), 400, "more than one request came at once"),
        (written("CONNECT", "x:1"), 403, "is no call that a hive needs"),
    ],
)
async def test_what_has_two_meanings_reaches_nobody(
    guarded: Path, engine: RecordingEngine, raw: bytes, status: int, said: str
) -> None:
    """Double lengths, odd codings, old versions, upgrades, pipelines and floods are refused without a question."""
    got, document = understood(await exchange(guarded, raw))
    assert (got, document["response"]) == (status, status)
    assert said in document["message"]
    assert document["message"].startswith("rbee-guard: ")
    assert engine.asked == []


async def test_a_chunked_body_is_read(guarded: Path, engine: RecordingEngine) -> None:
    """A length that comes in pieces is as good as one at once."""
    head = written("POST", f"{LIBPOD}/networks/create", b"", "Transfer-Encoding: chunked")
    got, document = understood(await exchange(guarded, head + b"2\r\n{}\r\n0\r\n\r\n"))
    assert got == 403
    assert "name is not what" in document["message"]


async def test_a_connection_ends_with_its_answer(guarded: Path, engine: RecordingEngine) -> None:
    """What comes after the first request is never read as another one."""
    reader, writer = await asyncio.open_unix_connection(guarded)
    writer.write(written("GET", INFO))
    await reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        writer.write(written("POST", STOP))
        await writer.drain()
        assert b"HTTP/1.1" not in await reader.read()
    writer.close()
    assert [each.method for each in engine.asked] == ["GET"]


async def test_an_answer_is_status_kind_and_content(guarded: Path, engine: RecordingEngine) -> None:
    """No header of the engine's gets through, and the connection is closed."""
    head, _, _ = (await exchange(guarded, written("GET", INFO))).partition(b"\r\n\r\n")
    names = [line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert sorted(names) == [b"connection", b"content-length", b"content-type"]
    assert b"connection: close" in head.lower()


async def test_head_requests_get_no_content(guarded: Path) -> None:
    """A refusal of HEAD is its head alone."""
    head, _, content = (await exchange(guarded, written("HEAD", INFO))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403")
    assert content == b""


@pytest.mark.parametrize("raw", [b"", b"GET /", written("POST", INFO, b"", "Content-Length: 5") + b"1"])
async def test_a_hive_that_leaves_is_let_go(guarded: Path, engine: RecordingEngine, raw: bytes) -> None:
    """A connection that ends before its request does asks nothing."""
    await exchange(guarded, raw, end=True)
    assert engine.asked == []
    assert (await ask(guarded, "GET", INFO))[0] == 200


async def test_a_slow_request_is_given_up(guarded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body have to come within a time."""
    monkeypatch.setattr(framing, "RECEIVE_SECONDS", 0.05)
    status, document = understood(await exchange(guarded, b"GET / HTTP/1.1\r\n"))
    assert status == 408
    assert "did not come within 0.05 s" in document["message"]


async def test_too_many_connections_are_turned_away(
    config: GuardConfig, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than the guard takes is told so, and there is room again afterwards."""
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 1)
    async with guarding(config) as socket:
        _, waiting = await asyncio.open_unix_connection(socket)
        await asyncio.sleep(0)
        refused, document = await ask(socket, "GET", INFO)
        waiting.close()
        await asyncio.sleep(0.05)
        status, _ = await ask(socket, "GET", INFO)
    assert (refused, status) == (503, 200)
    assert "more than 1 calls at once" in document["message"]


async def test_a_stop_goes_on_without_its_caller(guarded: Path, engine: RecordingEngine) -> None:
    """A hive that asks and hangs up at once has asked."""
    engine.add("rbee-worker-w", **{"rbee.fleet": "f", "rbee.hive": "h1", "rbee.worker": "w"})
    _, writer = await asyncio.open_unix_connection(guarded)
    writer.write(written("POST", STOP))
    await writer.drain()
    writer.close()
    await until(engine.changes)
    assert engine.changes()[0].path.endswith("/stop")


async def test_a_surprise_is_one_answer(
    guarded: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that nobody thought of is told in the journal, and the guard serves on."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    with monkeypatch.context() as patched:
        patched.setattr(serving, "read", broken)
        status, document = await ask(guarded, "GET", INFO)
    assert status == 500
    assert "the guard failed" in document["message"]
    assert "nobody thought of it" in capsys.readouterr().err
    assert (await ask(guarded, "GET", INFO))[0] == 200
