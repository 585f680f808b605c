"""The guard as a program: as systemd starts it, with no more than it needs of Python and of root's rights."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.errors import ConfigError
from rbee_runtime.guard import main
from rbee_runtime.guard.config import EngineKind, GuardConfig
from tests.unit.guard.asking import LIBPOD, ask, create_target, exchange, written
from tests.unit.guard.bodies import create_body, model
from tests.unit.guard.places import Places, hand_over
from tests.unit.guard.recording_engine import RecordingEngine
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

_BESIDE = ("command_line", "errors", "logs", "notify", "ports", "subordinate", "worker_bridge", "worker_limits")
ALLOWED = {"rbee_runtime", *(f"rbee_runtime.{name}" for name in _BESIDE)}
ROOT = os.geteuid() == 0
HIVE = 12345
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
program = [sys.executable, "-I", "-X", "importtime", "-m", "rbee_runtime.guard", "--config", sys.argv[2]]
os.execv(sys.executable, program)
"""
FEW_RIGHTS = ("setpriv", "--bounding-set=-all,+chown,+dac_read_search", "--inh-caps=-all")


@pytest.fixture
def kind() -> EngineKind:
    return EngineKind.PODMAN


@pytest.fixture
def settings(places: Places, config: GuardConfig) -> Path:
    """Return a file of settings for an account that every host has."""
    given: dict[str, Any] = {
        name: [*map(str, value)] if isinstance(value, tuple) and name != "ports" else value
        for name, value in asdict(config).items()
        if value is not None
    } | {"user": "nobody", "groups": []}
    path = places.root / "guard.json"
    path.write_text(json.dumps(given, default=str))
    return path


class Started:
    """A guard that runs as a program, on a socket that it was handed."""

    def __init__(self, settings: Path, *before: str) -> None:
        self.socket = settings.with_name("guard.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(settings.with_name("notify.sock")))
        self._notices.settimeout(20)
        handle = self._listener.fileno()
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", AS_SYSTEMD, str(handle), str(settings)],
            pass_fds=[handle],
            env={**os.environ, "NOTIFY_SOCKET": str(settings.with_name("notify.sock"))},
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self) -> str:
        """Return what systemd is told next."""
        return self._notices.recv(64).decode()

    def end(self) -> str:
        """Ask it to end and return all that it wrote."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=20)
        return said

    def close(self) -> None:
        """Leave nothing open."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()
        for each in (self._listener, self._notices, self.process.stderr):
            if each is not None:
                each.close()


@contextmanager
def started(settings: Path, *before: str) -> Iterator[Started]:
    guard = Started(settings, *before)
    try:
        assert guard.told() == "READY=1"
        yield guard
    finally:
        guard.close()


def imported(said: str) -> set[str]:
    """Return the modules that Python says it imported, the standard library's left out."""
    names = re.findall(r"^import time:.*\| +([\w.]+)$", said, re.MULTILINE)
    # `copy` of the standard library asks whether it runs on Java.
    known = {*sys.stdlib_module_names, "org"}
    return {name for name in names if name.partition(".")[0] not in known}


async def test_a_container_is_made_with_h11_and_little_else(
    places: Places, settings: Path, engine: RecordingEngine
) -> None:
    """From start to end the program imports the standard library, h11, itself and eight modules beside it."""
    model(places)
    hand_over(places, "w-1")
    with started(settings) as guard:
        made, _ = await ask(guard.socket, "POST", create_target(engine.kind), create_body(places, engine.kind))
        refused, _ = await ask(guard.socket, "POST", f"{LIBPOD}/containers/x/exec", {})
        said = guard.end()
    others = {name for name in imported(said) if not name.startswith(("h11", "rbee_runtime.guard"))}
    # What a development environment loads before any program runs.
    others -= {name for name in others if name.startswith(("_virtualenv", "sitecustomize", "_distutils_hack"))}
    assert (made, refused, guard.process.returncode) == (201, 403, 0)
    assert others <= ALLOWED
    assert "rbee_runtime.guard.serving" in imported(said)


async def test_an_end_is_quick(places: Places, settings: Path, engine: RecordingEngine) -> None:
    """SIGTERM cuts a follower of a log, says so to systemd, and leaves the socket's file."""
    labels = {"rbee.fleet": "f", "rbee.hive": "h1", "rbee.worker": "w"}
    engine.add("rbee-worker-w", **labels).log = ("event=ready",)
    with started(settings) as guard:
        target = "/containers/rbee-worker-w/logs?stdout=true&stderr=true&tail=5&follow=true"
        following = asyncio.create_task(exchange(guard.socket, written("GET", target)))
        await until(lambda: engine.followers)
        before = time.monotonic()
        guard.process.send_signal(signal.SIGTERM)
        said = await following
        await asyncio.to_thread(guard.process.wait, 10)
        took = time.monotonic() - before
        told = guard.told()
    assert b"event=ready" in said
    assert not said.endswith(b"0\r\n\r\n")
    assert (told, guard.process.returncode) == ("STOPPING=1", 0)
    assert took < 3
    assert guard.socket.exists()


@pytest.mark.skipif(not ROOT or not shutil.which("setpriv"), reason="only root can have few of root's rights")
async def test_two_rights_of_roots_are_enough(places: Places, settings: Path, engine: RecordingEngine) -> None:
    """What a hive wrote for itself alone is read, given to the worker's account, replaced and removed."""
    model(places)
    folder = hand_over(places, "w-1")
    for path in (*folder.iterdir(), folder, places.handover):
        os.chown(path, HIVE, HIVE)
    places.handover.chmod(0o700)
    with started(settings, *FEW_RIGHTS) as guard:
        target, body = create_target(engine.kind), create_body(places, engine.kind)
        made = [await ask(guard.socket, "POST", target, body)]
        engine.containers.clear()
        made.append(await ask(guard.socket, "POST", target, body))
        owner = (places.handed / "w-1/launch.json").stat().st_uid
        container = f"{LIBPOD}/containers/{made[1][1]['Id']}"
        removed, _ = await ask(guard.socket, "DELETE", f"{container}?v=True&ignore=True")
        said = guard.end()
    assert [status for status, _ in made] == [201, 201], said
    assert owner not in {0, HIVE}
    assert removed == 200
    assert list(places.handed.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--config", "/nowhere.json"],
            "rbee-guard: cannot read /nowhere.json: No such file or directory; give the settings by --config FILE\n",
        ),
        (["--what"], "rbee-guard: there is no option --what; see python -I -m rbee_runtime.guard --help\n"),
    ],
)
def test_a_mistake_ends_it_with_a_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1 and one line on standard error."""
    assert main.main(arguments) == 1
    assert capsys.readouterr().err == said


def test_a_guard_listens_by_itself(places: Places, config: GuardConfig) -> None:
    """Without systemd it makes a socket for its own user at the path of the settings, also where an old one lies."""
    path = places.root / "own.sock"
    for _ in range(2):
        with main.listening(places.config(config.engine, listen=path)) as listener:
            assert listener.getsockname() == str(path)
            assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot listen at .*own\.sock"):
        main.listening(places.config(config.engine, listen=path))
    with pytest.raises(ConfigError, match=r"start rbee-guard\.socket, or set listen"):
        main.listening(config)


@pytest.mark.parametrize("count", ["0", "2"])
def test_systemd_hands_over_one_socket(config: GuardConfig, monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    """Any other number is a mistake in the socket unit."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(ConfigError, match=f"hands over {count} sockets"):
        main.listening(config)
