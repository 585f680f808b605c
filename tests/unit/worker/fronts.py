"""One `rbee-worker` process per engine, each with the same small model, for what has to hold for every engine."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from rbee_deploy.local import install_engine
from rbee_deploy.model_files import lab_model
from rbee_runtime.worker.engines.threads import SPINS
from tests import served_engines
from tests.safetensors_model import safetensors_model
from tests.unit.worker.serving import MODEL, TOKEN

LOAD_SECONDS = 600.0
"""vLLM needs 70 s on two idle processors, and shares them with other tests."""

CONTEXT, SLOTS = 1024, 8


@dataclass(frozen=True)
class Kind:
    """One engine: its folder, its model, and what it can do. `busy` is its own name for the answers it works on.

    `tools` says that it can be held to a call of a tool, `numbers` that a number has an end in its grammars.
    """

    name: str
    engine: Callable[[Path], Path]
    model: Callable[[], Path]
    grammar: bool = True
    tools: bool = True
    numbers: bool = True
    busy: str = ""

    @property
    def missing(self) -> str:
        """Return why it cannot run here, or ""."""
        return served_engines.missing(self.name) if self.name in served_engines.SERVED else ""


def _ours(name: str) -> Callable[[Path], Path]:
    return lambda folder: install_engine(folder, name=name)


def _described(folder: Path) -> Path:
    """Return a folder whose engine.json describes llama.cpp's server as one that nobody knows, on a port."""
    program = install_engine(folder, name="llama-server")
    place = folder / "some-server-1"
    place.mkdir()
    command = [
        *(str(program / "llama-server"), "--model", "{model}", "--alias", "its-own-name", "--no-webui", "--metrics"),
        *("--host", "127.0.0.1", "--port", "{port}", "--api-key", "{key}", "--parallel", "{slots}"),
        *("--ctx-size", str(CONTEXT * SLOTS), "--no-kv-unified", "--jinja"),
    ]
    about = {
        "name": "some-server",
        "version": "1",
        "command": command,
        "model": "its-own-name",
        # As of ours: else its threads spin while others compute, and it takes five times as long.
        "environment": {"LD_LIBRARY_PATH": str(program), "GOMP_SPINCOUNT": SPINS},
    }
    (place / "engine.json").write_text(json.dumps(about))
    return place


KINDS = {
    kind.name: kind
    for kind in (
        Kind("llama-cpp", _ours("llama-cpp"), lab_model),
        Kind("llama-server", _ours("llama-server"), lab_model, busy="llamacpp:requests_processing"),
        Kind("vllm", _ours("vllm"), safetensors_model, grammar=False, numbers=False, busy="vllm:num_requests_running"),
        Kind("some-server", _described, lab_model, grammar=False, tools=False),
    )
}


@dataclass
class Front:
    """A ready worker of an engine."""

    kind: Kind
    process: subprocess.Popen[bytes]
    port: int
    scratch: Path
    log: Path

    @property
    def http(self) -> httpx.Client:
        """Return a client with its token."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers={"x-rbee-token": TOKEN}, timeout=60)

    def client(self) -> openai.AsyncOpenAI:
        """Return the official client."""
        url, headers = f"http://127.0.0.1:{self.port}/v1", {"x-rbee-token": TOKEN}
        return openai.AsyncOpenAI(base_url=url, api_key="x", default_headers=headers, max_retries=0, timeout=300)

    def info(self) -> dict[str, Any]:
        """Return what it says of itself."""
        with self.http as http:
            found: dict[str, Any] = http.get("/info").json()
        return found

    def busy(self) -> float:
        """Return how many answers the engine works on, by the engine's own word where it has one."""
        name = self.kind.busy
        (place,) = self.scratch.glob("rbee-engine-*/engine.sock") if name else (None,)
        if place is None:
            with self.http as http:
                return _sample(http.get("/metrics").text, "rbee_worker_slots_busy")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(place)), base_url="http://engine") as http:
            return _sample(http.get("/metrics").text, name)


def _sample(text: str, name: str) -> float:
    lines = (line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name)
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def front(kind: Kind, folder: Path, *options: str, model: Path | None = None) -> Iterator[Front]:
    """Run a worker of an engine until it is ready, and end it."""
    # A unix socket's path has an end, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="rbee-") as short, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        log = folder / "worker.log"
        entry = "from rbee_runtime.worker.main import main; main()"
        words = [
            *(sys.executable, "-c", entry, "--engine", kind.name, "--engine-dir", str(kind.engine(folder))),
            *("--model", str(model or kind.model()), "--name", MODEL, "--token", TOKEN, "--port", str(port)),
            *("--context", str(CONTEXT), "--slots", str(SLOTS), *options),
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, stdout=out, stderr=out, env=os.environ | {"TMPDIR": short}, start_new_session=True
            )
        up = Front(kind, process, port, Path(short), log)
        try:
            _until_ready(up)
            yield up
        finally:
            process.terminate()
            process.wait(60)


def _until_ready(up: Front) -> None:
    deadline = time.monotonic() + LOAD_SECONDS
    with up.http as http:
        while time.monotonic() < deadline:
            assert up.process.poll() is None, up.log.read_text()[-3000:]
            try:
                if http.get("/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    raise AssertionError(f"not ready after {LOAD_SECONDS:g} s: {up.log.read_text()[-3000:]}")
