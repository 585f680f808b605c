"""`rbee-worker` as a process: how it starts, ends and says why."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from rbee_runtime.server import bind
from rbee_runtime.states import WORKER_EXIT_CODES
from tests.ports import free_port
from tests.unit.models.gguf_builder import gguf
from tests.unit.worker.serving import MODEL, TOKEN, Notices, ended, fake_launch, start_process, write_spec

pytestmark = pytest.mark.slow

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}


@asynccontextmanager
async def running(
    folder: Path, script: str, line: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient, Notices]]:
    """Run a fake worker until its service manager was told `line`."""
    port, notices = free_port(), Notices(folder / "notify")
    spec = write_spec(folder / "spec", fake_launch(script, port=port))
    process = await start_process("--spec", str(spec), environment={"NOTIFY_SOCKET": str(notices.path)})
    try:
        await notices.until(line)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"x-rbee-token": TOKEN}, trust_env=False, timeout=10
        ) as client:
            yield process, client, notices
    finally:
        notices.close()
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_is_healthy_while_it_loads_and_ready_after(tmp_path: Path) -> None:
    """The service manager hears of the load and of its end; /ready follows."""
    for folder in ("loads", "loaded"):
        (tmp_path / folder).mkdir()
    async with running(tmp_path / "loads", "load_s=600", "STATUS=loading") as (_, client, notices):
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        assert not any("READY=1" in line for line in notices.lines)
    async with running(tmp_path / "loaded", "load_s=0.2", "READY=1") as (_, client, notices):
        assert (await client.get("/ready")).status_code == 200
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in notices.lines)


async def test_sigterm_finishes_what_is_in_hand(tmp_path: Path) -> None:
    """A stream that runs when the worker is told to stop is complete, new requests get 503, the status is 0."""
    async with running(tmp_path, "tokens_per_s=40", "READY=1") as (process, client, notices):
        async with client.stream("POST", "/v1/chat/completions", json=BODY | {"max_tokens": 200}) as stream:
            pieces = stream.aiter_text()
            answer = await anext(pieces)
            process.send_signal(signal.SIGTERM)
            await notices.until("STOPPING=1")
            assert (await client.get("/ready")).status_code == 503
            assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 503
            answer += "".join([piece async for piece in pieces])
        assert (await ended(process))[0] == 0
    assert answer.endswith("data: [DONE]\n\n")
    assert answer.count('"content":"tok') == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_cuts_what_is_in_hand(tmp_path: Path, number: int) -> None:
    """Who does not want to wait for answers of minutes says it once more; the first time tells that."""
    async with running(tmp_path, "fail=hang_after_3", "READY=1") as (process, client, notices):
        async with client.stream("POST", "/v1/chat/completions", json=BODY) as stream:
            pieces = stream.aiter_text()
            answer = await anext(pieces)
            process.send_signal(number)
            await notices.until("STOPPING=1")
            process.send_signal(number)
            answer += "".join([piece async for piece in pieces])
        status, said = await ended(process, seconds=20)
    assert (status, "worker_stopped" in answer) == (0, True)
    assert "a second signal cuts them" in said


@pytest.mark.engine
@pytest.mark.parametrize("after", [0.05, 0.2, 0.35, 0.5, 0.7, 1.0])
async def test_ctrl_c_is_quiet_whenever_it_comes(llama_engine_dir: Path, smol_model: Path, after: float) -> None:
    """While it imports, while the engine's process does, while the model loads: no traceback, nothing left."""
    process = await start_process(
        "--model", str(smol_model), "--engine-dir", str(llama_engine_dir), "--port", "0", group=True
    )
    await asyncio.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    status, said = await ended(process, seconds=30)
    assert "Traceback" not in said
    # By the signal itself where Python had not begun yet, which a shell shows as 130 too.
    assert status in (0, 130, -signal.SIGINT)


async def test_sigterm_ends_a_load(tmp_path: Path) -> None:
    """A worker that is told to stop while it loads is gone at once, with status 0."""
    async with running(tmp_path, "load_s=60", "STATUS=loading") as (process, _, _):
        process.send_signal(signal.SIGTERM)
        assert await ended(process, seconds=30) == (0, "")


async def test_a_crash_is_an_answer_that_never_ends(tmp_path: Path) -> None:
    """After `crash_after_3` the stream breaks off without [DONE], as with a real crash."""
    async with running(tmp_path, "fail=crash_after_3", "READY=1") as (process, client, _):
        pieces = list[bytes]()

        async def listen() -> None:
            async with client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
                async for piece in answer.aiter_bytes():
                    pieces.append(piece)

        with pytest.raises(httpx.RemoteProtocolError):
            await listen()
        assert (await ended(process))[0] == 1
    seen = b"".join(pieces)
    assert seen.count(b'"content":"tok') == 3
    assert b"[DONE]" not in seen


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--model", "fake:fail=oom"], 71, "out of memory\nrbee-worker: the fake model does not fit"),
        (["--model", "fake:fail=bad_model"], 65, "rbee-worker: the fake model is damaged"),
        (["--model", "fake:fail=crash_at_start"], 1, ""),
        (["--model", "fake:slot=1"], 64, "rbee-worker: unknown option 'slot'"),
        (["--model", "x", "--engine", "vlm"], 64, "rbee-worker: unknown engine 'vlm'"),
        (["--modle", "x"], 64, "rbee-worker: there is no option --modle; did you mean --model"),
        (["--model", "/gone.gguf"], 65, "rbee-worker: cannot read the model file /gone.gguf: No such file"),
        (["--model", __file__], 65, "is not a GGUF model"),
        (["--spec", "/gone"], 64, "rbee-worker: cannot read the worker spec /gone"),
    ],
)
async def test_the_exit_status_says_why(arguments: list[str], status: int, sentence: str) -> None:
    """Each reason has its status and one sentence, never a traceback."""
    code, errors = await ended(await start_process(*arguments, "--port", "0"))
    assert (code, sentence in errors, "Traceback" in errors) == (status, True, False), errors
    assert status in {*WORKER_EXIT_CODES, 1}


async def test_a_taken_port_has_a_status_of_its_own() -> None:
    """The hive gives such a worker another port and starts it again at once."""
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        code, errors = await ended(await start_process("--model", "fake:", "--port", str(port)))
    assert code == 98
    assert f"cannot listen on 127.0.0.1:{port}" in errors


async def test_an_engine_that_is_not_there_has_a_status_of_its_own(tmp_path: Path) -> None:
    """A model file is fine, the engine folder is empty: status 69."""
    model = tmp_path / "model.gguf"
    model.write_bytes(gguf())
    code, errors = await ended(await start_process("--model", str(model), "--engine-dir", str(tmp_path), "--port", "0"))
    assert code == 69
    assert f"no engine in {tmp_path}" in errors


async def test_certificates_that_are_not_there_are_a_wrong_setting(tmp_path: Path) -> None:
    """Missing TLS files are status 64 with the command that issues them."""
    launch = json.loads(write_spec(tmp_path / "spec", fake_launch()).read_bytes())
    (tmp_path / "spec").write_text(json.dumps(launch | {"tls_dir": str(tmp_path), "token": ""}))
    code, errors = await ended(await start_process("--spec", str(tmp_path / "spec")))
    assert code == 64
    assert "run the deploy again to issue it" in errors


def test_the_front_imports_no_engine() -> None:
    """Starting a worker's front loads neither llama.cpp nor its companions."""
    probe = (
        "import rbee_runtime.worker.command, sys; print(sorted({'llama_cpp', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
