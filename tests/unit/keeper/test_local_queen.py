"""A queen of this machine, started, given a model and stopped by the keeper."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rbee_runtime import __version__
from rbee_runtime.errors import ConfigError, QueenCallError
from rbee_runtime.keeper import local_queen
from rbee_runtime.keeper.chat import named
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.local_queen import queen_of
from rbee_runtime.keeper.queen_container import Here, command, stop_command
from rbee_runtime.keeper.settings import settle
from tests.ports import free_ports
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server
from tests.unit.queen.units import wait_until

__all__ = ["keeper", "queen", "server"]


@dataclass
class Laptop:
    """A person without root, who has nothing but rbee, and what their shell knows."""

    port: int
    environment: dict[str, str]

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        more = ["--attached-hive", "--port", str(self.port)] if words[0] == "start-queen" else []
        return subprocess.run(
            [sys.executable, "-m", "rbee_runtime.keeper.main", *words, *more],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    """Give a laptop on which no queen is left behind."""
    port = free_ports(2)[0]
    known = {name: text for name, text in os.environ.items() if not name.startswith("RBEE_")}
    run = Laptop(port, known | {"XDG_DATA_HOME": str(tmp_path), "RBEE_URL": f"http://127.0.0.1:{port}"})
    yield run
    run("stop-queen")


@pytest.mark.slow
def test_a_laptop_begins_without_a_model_and_gets_one(laptop: Laptop, tmp_path: Path) -> None:
    """In the background it serves at once, takes a model while it runs, and ends with its workers."""
    begun = laptop("start-queen", "--detach")
    assert (begun.returncode, "It has no model yet" in begun.stdout, "It runs in the background" in begun.stdout) == (
        0, True, True,
    )  # fmt: skip
    assert (tmp_path / "rbee" / "queen.log").stat().st_mode & 0o077 == 0
    twice = laptop("start-queen", "--detach")
    assert (twice.returncode, "runs already" in twice.stderr) == (2, True)
    said = laptop("chat", "--model", "demo=fake:tokens=3", "hi")
    assert (said.returncode, said.stdout) == (0, "tok0 tok1 tok2 \n")
    assert laptop("chat", "demo", "hi").stdout == "tok0 tok1 tok2 \n"
    assert (laptop("top").returncode, laptop("events").returncode) == (0, 0)
    other = laptop("chat", "--model", "demo=fake:tokens=4", "hi")
    assert (other.returncode, "the model 'demo' is another one already" in other.stderr) == (1, True)
    gone = laptop("chat", "--model", f"file:{tmp_path}/none.gguf", "hi")
    assert (gone.returncode, "there is no file" in gone.stderr) == (1, True)
    assert laptop("stop-queen").stdout.startswith("the queen (process ")
    assert laptop("stop-queen", "--json").stdout == '{\n  "stopped": false\n}\n'


@pytest.mark.slow
def test_a_followed_log_goes_on_when_its_worker_is_started_again(laptop: Laptop, tmp_path: Path) -> None:
    """What the next process writes comes as well, and Ctrl-C ends it with status 130 and no word."""
    laptop("start-queen", "--detach", "--model", "m=fake:tokens=3")
    laptop("chat", "m", "hi")
    (worker,) = json.loads(laptop("workers", "--json").stdout)
    log = (tmp_path / "log").open("w+")
    line = [sys.executable, "-m", "rbee_runtime.keeper.main", "logs", "-f", worker["id"]]
    with log, subprocess.Popen(line, env=laptop.environment, stdout=log, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: "event=ready" in (tmp_path / "log").read_text())
        os.kill(json.loads(laptop("worker", worker["id"], "--json").stdout)["pid"], signal.SIGKILL)
        wait_until(lambda: (tmp_path / "log").read_text().count("event=ready") == 2)
        run.send_signal(signal.SIGINT)
        assert (run.communicate(timeout=20)[1].strip(), run.returncode) == ("", 130)


@pytest.mark.slow
def test_a_queen_that_does_not_start_says_why(laptop: Laptop) -> None:
    """Its own last sentence, and nothing runs."""
    done = laptop("start-queen", "--detach", "--model", "m=ftp:x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the queen did not start: --model 'm=ftp:x': model source 'ftp:x' is not of a known form" in done.stderr


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x"}', '{"pid": 0}', '{"pid": PID}'])
def test_a_number_of_another_program_is_no_queen(tmp_path: Path, text: str) -> None:
    """A file that a crash left behind never has a stranger stopped."""
    folder = tmp_path / "run" / "queen"
    folder.mkdir(parents=True)
    (folder / "running.json").write_text(text.replace("PID", str(os.getpid())))
    assert queen_of(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("toy", "toy", ""),
        ("file:/m/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1", "file:/m/SmolLM2-135M.Q4_1.gguf"),
        ("file:/m/my model (1)..gguf", "my-model-1", "file:/m/my model (1)..gguf"),
        ("mine=file:/m/a=b.gguf", "mine", "file:/m/a=b.gguf"),
        ("mine=hf:org/repo", "mine", "hf:org/repo"),
        ("file:a.gguf", "a", f"file:{Path.cwd()}/a.gguf"),
    ],
)
def test_a_file_has_a_name_of_its_own(text: str, name: str, source: str) -> None:
    """That of the file in letters that a model may have, or the one that is typed; paths may be relative."""
    assert named(text) == (name, source)


def test_a_file_without_a_name_is_one_sentence() -> None:
    """With the form that gives it one."""
    with pytest.raises(ConfigError, match="gives the model no name: write NAME=file:/…".replace("…", ".*")):
        named("file:/---")


@pytest.mark.parametrize("status", [404, 405])
def test_a_fleet_takes_no_model_from_a_chat(status: int) -> None:
    """Its models are in its inventory."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status))
    client = QueenClient(settle("http://127.0.0.1:1", "k", None, None), transport=transport)
    with client, pytest.raises(QueenCallError, match="serves the models of its inventory; only one of"):
        client.declare("a", "file:/a.gguf")


WHERE = Here(Path("/home/ann/.local/share/rbee"), 1000, 1001)


def test_a_container_has_what_the_queen_reads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state at its own path, files of models read-only, no right of root, and the user's own number."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    options = ["--attached-hive", "--model", "a=file:/m/a.gguf", "--model=b=hf:o/r", "--engines-dir", "/opt/e"]
    assert command("podman", "img:1", options, WHERE, detach=True) == [
        "podman", "run", "--rm", "--name", "rbee-queen", "--network", "host", "--stop-signal", "SIGINT",
        "--stop-timeout", "200", "--user", "1000:1001", "--userns", "keep-id", "--read-only", "--tmpfs", "/tmp",
        "--cap-drop", "all", "--security-opt", "no-new-privileges", "--security-opt", "label=disable",
        "--env", "XDG_DATA_HOME=/home/ann/.local/share",
        "--volume", "/home/ann/.local/share/rbee:/home/ann/.local/share/rbee:rw",
        "--volume", "/m/a.gguf:/m/a.gguf:ro", "--volume", "/opt/e:/opt/e:ro", "--detach", "img:1", *options,
    ]  # fmt: skip
    assert "--userns" not in command("docker", "img:1", options, WHERE)
    assert "--userns" not in command("podman", "img:1", options, Here(Path("/root/.local/share/rbee"), 0, 0))
    assert stop_command("docker") == ["docker", "stop", "--time", "200", "rbee-queen"]


@pytest.mark.parametrize(
    ("engine", "typed", "said"),
    [
        (None, ["--attached-hive"], "--container needs podman or docker, and this machine has none on PATH"),
        ("exit 0", [], '--container goes with --attached-hive; a fleet says mode="container" in its inventory'),
        (
            '[ "$1" = version ] || { echo no such thing >&2; exit 1; }',
            ["--attached-hive"],
            "podman has no image {image} (no such thing); bring",
        ),
        (
            "echo nobody is there >&2; exit 125",
            ["--attached-hive"],
            "podman does not answer (nobody is there); start it",
        ),
    ],
)
def test_what_a_container_lacks_is_one_sentence(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str | None, typed: list[str], said: str
) -> None:
    """An engine, an image, or a queen that may be in one."""
    if engine is not None:
        (tmp_path / "podman").write_text(f"#!/bin/sh\n{engine}\n")
        (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere" if engine is None else f"{tmp_path}:{os.environ['PATH']}")
    status, out, err = keeper("start-queen", "--container", *typed)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said.format(image=f"localhost/rbee-queen:{__version__}") in err


@pytest.mark.parametrize(("ends", "stopped"), [(0, True), (1, False)])
def test_a_container_is_stopped(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: int, stopped: bool
) -> None:
    """By the engine that is there; where none runs, nothing was to be done."""
    script = f'[ "$1" = version ] && exit 0\necho "$@" >{tmp_path}/asked\nexit {ends}'
    (tmp_path / "podman").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    status, out, _ = keeper("stop-queen", "--container", "--json")
    assert (status, json.loads(out)) == (0, {"stopped": stopped})
    assert (tmp_path / "asked").read_text() == "stop --time 200 rbee-queen\n"


def test_an_engine_that_does_not_answer_is_not_taken_for_one_without_a_queen(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether a queen runs in it is not known then, and the status says that nothing was stopped."""
    (tmp_path / "podman").write_text("#!/bin/sh\necho nobody is there >&2; exit 125\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    status, out, err = keeper("stop-queen", "--container")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "podman does not answer (nobody is there); start it" in err


def test_options_of_the_queen_are_not_mistaken() -> None:
    """Both forms of an option name its state directory."""
    for options in (["--state-dir", "/x/y"], ["--state-dir=/x/y"]):
        assert local_queen.state_dir(options) == Path("/x/y")
