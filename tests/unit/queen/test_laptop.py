"""`rbee-queen --attached-hive`: the whole product in one command, on loopback, without root."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rbee_runtime.errors import ConfigError, StateError
from rbee_runtime.queen import laptop
from tests.ports import free_ports
from tests.unit.queen.units import PATIENCE, ROOT, alive, wait_until

pytestmark = pytest.mark.slow


class Queen:
    """One run of the command; `banner` is what it printed until it was up."""

    def __init__(
        self,
        root: Path,
        port: int,
        *,
        model: str = "m=fake:tokens=3",
        log: int = subprocess.DEVNULL,
        **environment: str,
    ) -> None:
        command = [sys.executable, "-m", "rbee_runtime.queen.main", "--attached-hive", "--model", model]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--state-dir", str(root)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert self.process.stdout is not None
        self.banner = ""
        for line in self.process.stdout:
            self.banner += line
            if line.startswith("Ctrl-C"):
                break
        self.key = (root / "queen" / "api-key").read_text().strip()
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"authorization": f"Bearer {self.key}"}, timeout=PATIENCE)

    def chat(self) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE)
        return str(answer.json()["choices"][0]["message"]["content"])

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self.process.communicate()
        return status


def workers(root: Path) -> list[int]:
    """Return the processes that serve a model of this state directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if b"rbee_runtime.worker.main\0--spec" in command and str(root).encode() in command:
                found.append(int(folder.name))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Give a state directory whose workers are gone afterwards."""
    yield tmp_path / "rbee"
    for pid in workers(tmp_path / "rbee"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_laptop_serves_adopts_and_ends(root: Path) -> None:
    """It shows its key once; SIGTERM leaves the worker, which the next run adopts; Ctrl-C ends it."""
    port = free_ports(2)[0]
    first = Queen(root, port)
    assert first.key in first.banner
    assert (root / "queen" / "api-key").stat().st_mode & 0o777 == 0o600
    assert (root / "queen" / "link-token").stat().st_mode & 0o777 == 0o600
    assert first.chat() == "tok0 tok1 tok2 "
    (worker,) = workers(root)
    assert first.end(signal.SIGTERM) == 0
    assert alive(worker)
    second = Queen(root, port)
    assert second.key not in second.banner
    assert second.chat() == "tok0 tok1 tok2 "
    assert workers(root) == [worker]
    assert second.end(signal.SIGINT) == 0
    wait_until(lambda: not workers(root))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("m", "has no source"),
        ("m=ftp:x", "not of a known form"),
        ("m=file:relative", "needs an absolute path"),
        ("m=file:/no/such/file.gguf", "there is no file"),
        ("-m=fake:", "is not allowed"),
        ("m=fake:tokns=5", "--model 'm=fake:tokns=5': unknown option 'tokns' of a fake engine; did you mean 'tokens'"),
        ("m=fake:tokens=few", "a fake engine's option is wrong: tokens is 'few': expected `int`, got `str`"),
    ],
)
def test_a_wrong_model_flag_is_one_sentence(text: str, sentence: str) -> None:
    """The flag is quoted, with what to write instead."""
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        laptop.parse_model(text)


@pytest.mark.parametrize("manifest", [None, b"{"], ids=["absent", "damaged"])
def test_a_model_without_an_engine_is_refused(tmp_path: Path, manifest: bytes | None) -> None:
    """Nothing would ever answer, so nothing begins, and the sentence has a way out."""
    engines = tmp_path / "engines"
    if manifest is not None:
        (engines / "llama-cpp-1").mkdir(parents=True)
        (engines / "llama-cpp-1" / "engine.json").write_bytes(manifest)
    said = f"there is no engine llama-cpp in {engines}" if manifest is None else "engine.json cannot be used"
    with pytest.raises(ConfigError, match=f"--model m=hf:org/repo: .*{said}.*; name a folder .* --engines-dir"):
        laptop.prepare(tmp_path / "rbee", engines, 0, ["m=hf:org/repo"])
    assert not (tmp_path / "rbee").exists()


def test_a_state_folder_that_is_a_file_is_called_one(tmp_path: Path) -> None:
    """Neither an owner nor free space would help."""
    (tmp_path / "rbee").write_text("")
    with pytest.raises(StateError, match="a part of this path is a file; move that, or use another folder"):
        laptop.prepare(tmp_path / "rbee", tmp_path, 0, ["m=fake:"])


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    """Nothing is written for settings that are refused."""
    with pytest.raises(ConfigError, match="declared twice"):
        laptop.prepare(tmp_path / "rbee", tmp_path, 0, ["m=fake:", "m=fake:"])
    assert not (tmp_path / "rbee").exists()
