"""A real queen process in front of real servers that are not the fleet's own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ports import free_port
from tests.unit.queen.units import PATIENCE, Unit, alive, unit, wait_until

SERVER = Path(__file__).resolve().parents[2] / "openai_server.py"


@dataclass
class Server:
    """A server with its own port and log."""

    folder: Path
    flavour: str
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def notes(self) -> list[dict[str, Any]]:
        log = self.folder / f"{self.flavour}.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def start(self) -> None:
        words = ["--flavour", self.flavour, "--port", str(self.port), "--log", str(self.folder / f"{self.flavour}.log")]
        self.process = subprocess.Popen([sys.executable, str(SERVER), *words, *self.options])

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE)


@contextmanager
def servers(*made: Server) -> Iterator[None]:
    for each in made:
        each.start()
    try:
        yield
    finally:
        for each in made:
            each.kill()


def states(q: Unit) -> dict[str, str]:
    return {row["id"]: row["state"] or row["detail"] for row in q.get("/api/v1/workers").json()}


def chat(q: Unit, model: str, **fields: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    return httpx.post(f"{q.url}/v1/chat/completions", json=body, headers=q.headers, timeout=PATIENCE)


@contextmanager
def streaming(q: Unit, model: str) -> Iterator[Iterator[str]]:
    body = {"model": model, "messages": [], "stream": True}
    url = f"{q.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=q.headers, timeout=PATIENCE) as answer:
        yield answer.iter_text()


@pytest.fixture(scope="module")
def q(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unit]:
    """Give a queen without hives that stays the same process; each test declares its servers in her fleet file."""
    with unit(tmp_path_factory.mktemp("queen"), {"external": []}) as made:
        main = made.start()
        yield made
        assert alive(main.child)


def declare(q: Unit, *servers: dict[str, object]) -> None:
    """Write the fleet file and wait until each of its models is served."""
    (q.directory / "fleet.yaml").write_text(yaml.safe_dump({"external": list(servers)}))
    wanted = {f"{each['name']}:{model}" for each in servers for model in each["models"]}  # type: ignore[attr-defined]
    wait_until(lambda: states(q) == dict.fromkeys(wanted, "ready"))


@pytest.fixture
def long(tmp_path: Path) -> Server:
    """Return a server whose answers take half a minute."""
    return Server(tmp_path, "llama-server", ("--tokens", "600", "--pause", "0.05"))


def test_every_kind_of_server_answers_through_the_queen(q: Unit, tmp_path: Path) -> None:
    """Ollama, vLLM with a key and llama-server are asked by their own names; no hive, no restart, no key of ours."""
    ollama, vllm = Server(tmp_path, "ollama"), Server(tmp_path, "vllm", ("--key", "k"))
    llama = Server(tmp_path, "llama-server")
    (tmp_path / "keys").write_text("v=k\n")
    with servers(ollama, vllm, llama):
        declare(
            q,
            {"name": "o", "url": f"{ollama.url}/v1", "models": {"llama": "llama3"}},
            {"name": "v", "url": vllm.url, "models": ["org/tiny"], "key_file": str(tmp_path / "keys")},
            {"name": "l", "url": llama.url, "models": {"tiny": "/srv/models/tiny.gguf"}},
        )
        listed = {row["id"]: row["state"] for row in q.get("/v1/models").json()["data"]}
        assert listed == {"llama": "ready", "org/tiny": "ready", "tiny": "ready"}
        assert [chat(q, name).json()["model"] for name in listed] == ["llama3", "org/tiny", "/srv/models/tiny.gguf"]
        assert chat(q, "tiny", stream=True).text.endswith("data: [DONE]\n\n")
        notes = [note for each in (ollama, vllm, llama) for note in each.notes]
    assert {note["path"] for note in notes} == {"/v1/chat/completions"}
    assert [note["authorization"] for note in notes] == [None, "Bearer k", None, None]


def test_a_client_that_leaves_ends_the_call(q: Unit, long: Server) -> None:
    """The server sees its own client leave, and the slot is free."""
    with servers(long):
        declare(q, {"name": "l", "url": long.url, "models": ["m"]})
        with streaming(q, "m") as pieces:
            next(pieces)
        wait_until(lambda: [note["event"] for note in long.notes] == ["asked", "left"])
        wait_until(lambda: q.get("/api/v1/workers").json()[0]["in_flight"] == 0)


def test_a_server_that_dies_is_told_and_comes_back(q: Unit, long: Server) -> None:
    """Its open stream ends in one error event, new requests in a 503 that says why, and it serves once it is back."""
    with servers(long):
        declare(q, {"name": "l", "url": long.url, "models": ["m"]})
        with streaming(q, "m") as pieces:
            next(pieces)
            long.kill()
            rest = "".join(pieces)
        assert ('data: {"error"' in rest, "[DONE]" in rest) == (True, False)
        refused = chat(q, "m")
        assert refused.status_code == 503
        assert "m is not ready yet (l " in refused.json()["error"]["message"]
        assert "ready" not in states(q).values()
        long.start()
        wait_until(lambda: states(q) == {"l:m": "ready"})
        assert chat(q, "m").status_code == 200
