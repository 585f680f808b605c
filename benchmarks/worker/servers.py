"""The servers that are measured: same machine, same model, same build of llama.cpp, all on loopback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks import environments
from benchmarks.worker.results import Side
from rbee_deploy.local import DEFAULT_VARIANT, install_engine
from rbee_deploy.model_files import lab_model
from rbee_deploy.server_builds import build_server

MODEL = "bench"
CONTEXT = 2048
TOKEN = "bench-on-loopback"  # noqa: S105 - of a worker that lives as long as the measurement
START_SECONDS = 120.0
REQUIREMENTS = "bench-llama-cpp-server.txt"


class BenchError(Exception):
    """Something did not run, so that there is nothing to measure; the message says what."""


class LengthError(BenchError):
    """An answer had another length than it should: with another question it has not."""


@dataclass(frozen=True)
class Server:
    """A server that answers; `headers` is what it wants of each request."""

    side: Side
    port: int
    headers: dict[str, str]


def commands(folder: Path, threads: int, slots: int) -> dict[Side, tuple[tuple[str, ...], dict[str, str]]]:
    """Return each side's command without its port, and its environment; compiles and downloads what is missing."""
    engine, model = install_engine(folder), str(lab_model())
    ours = (
        *(sys.executable, "-m", "rbee_runtime.worker.main", "--model", model, "--name", MODEL, "--token", TOKEN),
        *("--engine-dir", str(engine), "--context", str(CONTEXT), "--slots", str(slots)),
        *("--option", f"threads={threads}"),
    )
    cpp = (
        *(str(build_server(DEFAULT_VARIANT)), "--model", model, "--alias", MODEL, "--host", "127.0.0.1"),
        *("--ctx-size", str(CONTEXT * slots), "--parallel", str(slots), "--threads", str(threads)),
    )
    python = environments.made("llama-cpp-server", REQUIREMENTS) / "bin" / "python"
    binding = (
        *(
            str(python),
            "-m",
            "llama_cpp.server",
            "--model",
            model,
            "--model_alias",
            MODEL,
        ),
        *("--n_ctx", str(CONTEXT), "--n_threads", str(threads), "--interrupt_requests", "false"),
    )
    site = {"PYTHONPATH": str(engine / "site-packages")}
    return {
        Side.OURS: (ours, {}),
        Side.AGAIN: (ours, {}),
        Side.LLAMA_SERVER: (cpp, {}),
        Side.LLAMA_CPP_PYTHON: (binding, site),
    }


@contextmanager
def running(side: Side, command: tuple[str, ...], more: dict[str, str], port: int, log: Path) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            (*command, "--port", str(port)),
            env=os.environ | more,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    headers = {"x-rbee-token": TOKEN} if side in (Side.OURS, Side.AGAIN) else {}
    server = Server(side, port, headers)
    try:
        _wait(server, process, log)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            answer = httpx.get(f"http://127.0.0.1:{server.port}/v1/models", headers=server.headers, timeout=5)
            ready = httpx.get(f"http://127.0.0.1:{server.port}/ready", headers=server.headers, timeout=5)
        except httpx.HTTPError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200 and ready.status_code in (200, 404):
            return
        time.sleep(0.1)
    last = log.read_text("utf-8", "replace").splitlines()[-5:]
    raise BenchError(f"{server.side} did not start:\n" + "\n".join(last))
