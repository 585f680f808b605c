"""A server behind the front: started, waited for, asked, watched and ended; a small program stands in for it."""

import asyncio
import json
import os
import signal
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.errors import EngineCrashedError, EngineLoadError, RequestError
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import ChatRequest, Message, create
from rbee_runtime.worker.engines.served import engine as served_engine
from rbee_runtime.worker.engines.served.engine import ServedEngine
from tests.unit.hive.waiting import until
from tests.unit.worker.serving import start_process, write_spec

ASKED = ChatRequest((Message("user", "hello"),))
SERVER = textwrap.dedent(
    """
    import http.server, json, os, pathlib, socketserver, sys, time
    place, mode = sys.argv[1:3]
    begun = time.monotonic()
    state = pathlib.Path(os.environ["STATE"])
    (state / "environment").write_text(json.dumps(dict(os.environ)))
    if mode == "ends":
        sys.exit("error: CUDA out of memory")
    if mode == "child":
        if os.fork() == 0:
            (state / "child").write_text(str(os.getpid()))
            time.sleep(300)
    print("loading", flush=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.give(200 if time.monotonic() - begun > 0.3 else 503, b"{}")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            key = self.headers.get("authorization")
            (state / "asked").write_text(json.dumps({"path": self.path, "key": key, **body}))
            if mode == "refuses":
                return self.give(400, b'{"error": {"message": "not so"}}')
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
            if mode == "crashes":
                print("it broke: error 7", flush=True)
                os._exit(3)
            if mode == "slow":
                try:
                    while True:
                        self.event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
                        time.sleep(0.05)
                except OSError:
                    (state / "gone").touch()
                    return
            if mode != "short":
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                self.event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
                self.chunk(b"data: [DONE]\\n\\n")
            self.chunk(b"")

        def give(self, status, body):
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def event(self, event):
            self.chunk(b"data: " + json.dumps(event).encode() + b"\\n\\n")

        def chunk(self, data):
            self.wfile.write(f"{len(data):x}\\r\\n".encode() + data + b"\\r\\n")
            self.wfile.flush()

        def address_string(self):
            return "front"

        def log_message(self, *_):
            pass

    if place.isdigit():
        http.server.ThreadingHTTPServer(("127.0.0.1", int(place)), Handler).serve_forever()

    class OnSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

        def get_request(self):
            request, _ = super().get_request()
            return request, ("front", 0)

    OnSocket(place, Handler).serve_forever()
    """
)


def launched(folder: Path, mode: str = "", *, place: str = "{socket}", **about: Any) -> WorkerLaunch:
    """Return a launch of the small server, described as the inventory would."""
    (folder / "server.py").write_text(SERVER)
    command = ["python3", str(folder / "server.py"), place, mode, "{name}"]
    described = {"name": "toy", "version": "1", "command": command, "environment": {"STATE": str(folder)}, **about}
    (folder / "engine.json").write_text(json.dumps(described))
    spec = WorkerSpec(id="toy-000001", model="m", engine="toy", context=64, slots=2)
    return WorkerLaunch(
        worker=spec, host="127.0.0.1", port=0, token="t", model_path="/models/m.gguf", engine_dir=str(folder)
    )


@asynccontextmanager
async def loaded(folder: Path, mode: str = "", **about: Any) -> AsyncIterator[ServedEngine]:
    engine = create(launched(folder, mode, **about))
    assert isinstance(engine, ServedEngine)
    await engine.load(list[float]().append)
    try:
        yield engine
    finally:
        await engine.close()


async def text_of(engine: ServedEngine) -> str:
    return "".join([delta.text async for delta in engine.chat(ASKED)])


@pytest.mark.parametrize("place", ["{socket}", "{port}"])
async def test_a_server_is_asked_over_its_own_place(tmp_path: Path, place: str) -> None:
    """Over a socket without a key, over a port with one; the request names the model as the server does."""
    async with loaded(tmp_path, place=place, model="its-own") as engine:
        assert await text_of(engine) == "a"
        asked = json.loads((tmp_path / "asked").read_text())
    assert (asked["path"], asked["model"]) == ("/v1/chat/completions", "its-own")
    assert (asked["key"] is not None) == (place == "{port}")


async def test_a_server_sees_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, credentials and the service manager's socket are the front's alone, and nobody asks the internet."""
    for name in ("RBEE_WORKER_TOKEN", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "secret")
    async with loaded(tmp_path):
        seen = json.loads((tmp_path / "environment").read_text())
    assert "secret" not in seen.values()
    assert (seen["HF_HUB_OFFLINE"], seen["STATE"]) == ("1", str(tmp_path))
    assert "PYTHONPATH" not in seen


async def test_nothing_stays_after_it_is_closed(tmp_path: Path) -> None:
    """The server, what it started, and its folder are gone."""
    async with loaded(tmp_path, "child") as engine:
        pid, folder = engine.pid, engine._folder
        child = int(await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text()) or 0)
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o700
    await until(lambda: not _words(pid) and not _words(child))
    assert not folder.exists()


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def test_a_load_that_fails_says_why(tmp_path: Path) -> None:
    """Its last words and what they mean; nothing stays."""
    with pytest.raises(EngineLoadError, match=r"toy did not get ready: .*status 1: error: CUDA out of memory") as error:
        async with loaded(tmp_path, "ends"):
            pass
    assert error.value.reason == ExitReason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"command": []}, "has no command"),
        ({"command": ["/nowhere/server"]}, "the program /nowhere/server of engine toy is not on this host"),
        ({"command": ["python3", "{gpu}"]}, r"asks for \{gpu\}; known are \{model\}"),
        ({"name": "other"}, "holds other, not toy"),
        ({"command": 7}, "is damaged"),
    ],
)
async def test_a_folder_that_describes_nothing_is_one_sentence(
    tmp_path: Path, about: dict[str, Any], said: str
) -> None:
    """No command, no program, an unknown word: the engine is missing, and the sentence says what to mend."""
    launch = launched(tmp_path, **about)
    with pytest.raises(EngineLoadError, match=said) as error:
        await create(launch).load(list[float]().append)
    assert error.value.reason == ExitReason.ENGINE_MISSING


async def test_giving_up_a_load_ends_the_server(tmp_path: Path) -> None:
    """A stop while it loads leaves no process."""
    engine = create(launched(tmp_path))
    assert isinstance(engine, ServedEngine)
    load = asyncio.create_task(engine.load(list[float]().append))
    await until(lambda: engine.pid)
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    await until(lambda: not _words(engine.pid))


@pytest.mark.parametrize(
    ("mode", "kind", "said"),
    [
        ("refuses", RequestError, "not so"),
        ("short", RequestError, "before it was complete"),
        ("crashes", EngineCrashedError, "status 3: it broke: error 7"),
    ],
)
async def test_each_failure_is_told_as_what_it_is(tmp_path: Path, mode: str, kind: type[Exception], said: str) -> None:
    """A refusal is the client's, a short answer a failure of this request, a dead server the end of the worker."""
    async with loaded(tmp_path, mode) as engine:
        with pytest.raises(kind, match=said):
            await text_of(engine)
        if kind is EngineCrashedError:
            assert said.partition(":")[0] in str(await engine.broken())
        else:
            with pytest.raises(kind, match=said):
                await text_of(engine)


async def test_who_leaves_ends_the_request_at_the_server(tmp_path: Path) -> None:
    """Closing the answer closes the connection, which the server sees within a second."""
    async with loaded(tmp_path, "slow") as engine:
        answer = engine.chat(ASKED)
        await anext(answer)
        await answer.aclose()
        await until((tmp_path / "gone").exists, within=1)


async def test_a_server_that_stops_gets_no_traffic_and_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: first the worker says that it answers nothing now, then it is beyond use, and its process is gone."""
    monkeypatch.setattr(served_engine, "TROUBLE_SECONDS", 0.5)
    monkeypatch.setattr(served_engine, "SILENCE_SECONDS", 4.0)
    monkeypatch.setattr("rbee_runtime.worker.engines.served.calls.ASK_SECONDS", 0.2)
    async with loaded(tmp_path) as engine:
        os.killpg(engine.pid, signal.SIGSTOP)
        await until(lambda: "has not said that it is well" in engine.trouble)
        assert "has not said that it is well for 4 s" in str(await engine.broken())
        await until(lambda: not _words(engine.pid))


async def test_a_killed_server_is_a_crash_with_its_signal(tmp_path: Path) -> None:
    """Kill -9: seen at once, whether a request finds out or not."""
    async with loaded(tmp_path) as engine:
        os.kill(engine.pid, signal.SIGKILL)
        assert "ended by SIGKILL" in str(await asyncio.wait_for(engine.broken(), 5))
        with pytest.raises(EngineCrashedError):
            await text_of(engine)


async def test_the_server_ends_with_its_front(tmp_path: Path) -> None:
    """A front that is killed leaves no server that nobody can reach."""
    launch = tmp_path / "launch.json"
    write_spec(launch, launched(tmp_path))
    process = await start_process("--spec", str(launch))
    await until((tmp_path / "environment").exists)
    (server,) = _running(str(tmp_path / "server.py"))
    process.kill()
    await process.wait()
    await until(lambda: not _words(server))


def _running(word: str) -> list[int]:
    """Return the processes with a word in their command."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if word.encode() in _words(pid)]


async def test_folders_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A front that was killed leaves its folder; the next one removes it, and no folder of a process that lives."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    left, kept = tmp_path / f"rbee-engine-{dead.pid}-x", tmp_path / f"rbee-engine-{os.getpid()}-x"
    for folder in (left, kept):
        folder.mkdir()
    made = served_engine.own_folder()
    assert (left.exists(), kept.exists(), made.is_dir()) == (False, True, True)
