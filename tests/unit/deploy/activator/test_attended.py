"""The main process of a unit whose queen or hive is in a container of Docker, with a made-up one in its place."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rbee_deploy.activator.housed import attended
from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.role import HousedRole
from rbee_runtime import notify, ports
from rbee_runtime.errors import ConfigError
from tests.unit.deploy.activator.conftest import program

DOCKER = """
import json, os, pathlib, signal, socket, sys, time
here = pathlib.Path({here!r})
with (here / "asked").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
state = here / "state"
if sys.argv[1] == "run":
    words = [word[8:].split(",") for word in sys.argv if word.startswith("--mount=")]
    mounts = [dict(part.split("=", 1) for part in parts if "=" in part) for parts in words]
    inside = next(mount["source"] for mount in mounts if mount["target"] == "/run/rbee-unit")
    for word in sys.argv:
        if word.startswith("--env="):
            name, value = word.removeprefix("--env=").split("=", 1)
            os.environ[name] = value.replace("/run/rbee-unit", inside)
    sys.path.insert(0, {root!r})
    from rbee_runtime import notify
    sockets = notify.inherited_sockets()
    (here / "sockets").write_text(json.dumps(sorted(sockets)))
    state.write_text("true")
    notify.notify("READY=1\\nMAINPID=1\\nSTATUS=serving")
    while state.read_text() != "gone":
        time.sleep(0.02)
    sys.exit(int((here / "status").read_text()) if (here / "status").exists() else 0)
if (here / "silent").exists():
    sys.exit("Cannot connect to the Docker daemon")
if sys.argv[1:3] == ["container", "inspect"]:
    text = state.read_text() if state.exists() else ""
    if text == "gone":
        sys.exit("Error response from daemon: No such container: rbee-queen")
    print("0123456789abcdef" if "Id" in sys.argv[4] else "true" if text == "true" else "false")
if sys.argv[1] == "kill":
    pathlib.Path({running!r}).unlink(missing_ok=True)
    if (here / "quick").exists():
        state.write_text("gone")
"""


class Unit:
    """The main process of a Docker unit, run apart, with a made-up systemd that listens."""

    def __init__(self, folder: Path, run: Path, role: HousedRole) -> None:
        self.folder, self.run = folder, run
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(folder / "systemd"))
        self.systemd.settimeout(10)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        code = f"""
        import dataclasses, os, pathlib, sys
        os.dup2({listener.fileno()}, 3, inheritable=True)
        os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
        from rbee_runtime import ports
        ports.UNIT_RUN = pathlib.Path({str(folder / "unit")!r})
        ports.CREDENTIALS = pathlib.Path({str(ports.CREDENTIALS)!r})
        from rbee_deploy.activator.housed import attended, role
        mine = dataclasses.replace(role.ROLES[{role.name!r}], user={role.user!r}, run=pathlib.Path({str(run)!r}))
        sys.exit(attended.main_status(attended.run("docker", mine, ["ca.pem"], [], ["image", "--config", "x"])))
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            pass_fds=(listener.fileno(),),
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "systemd")},
        )
        listener.close()

    def close(self) -> None:
        """End what is left."""
        (self.folder / "state").write_text("gone")
        self.process.kill()
        self.process.wait()
        self.systemd.close()

    def hear(self) -> str:
        """Return what systemd is told next."""
        return self.systemd.recv(4096).decode()

    def asked(self, verb: str) -> list[str]:
        """Return what Docker was asked of a kind."""
        return [line for line in (self.folder / "asked").read_text().splitlines() if line.split()[0] == verb]


@pytest.fixture
def unit(queen: HousedRole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    """Start a queen's unit whose Docker is made up."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "bin").mkdir()
    running = tmp_path / "q" / "running.json"
    root = str(Path(attended.__file__).parents[3])
    program(folder / "bin", "docker", DOCKER.format(here=str(folder), root=root, running=str(running)))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    made = Unit(folder, running.parent, queen)
    yield made
    made.close()


def test_a_container_of_docker_gets_sockets_and_speaks_to_systemd(unit: Unit) -> None:
    """The listening sockets arrive by descriptor, readiness comes through, and words about the unit itself do not."""
    assert unit.hear() == "READY=1\nSTATUS=serving"
    assert json.loads((unit.folder / "sockets").read_text()) == [unit.port]
    (words,) = unit.asked("run")
    assert f"--user={os.getuid()}:{os.getgid()}" in words
    assert "--name=rbee-queen" in words
    assert words.endswith("image --config x")
    (held,) = (unit.folder / "unit").glob("queen-*/credentials/ca.pem")
    assert (held.read_text(), held.stat().st_mode & 0o777) == ("content of ca.pem\n", 0o400)
    (unit.run / "running.json").write_text("{}")
    unit.process.send_signal(signal.SIGTERM)
    assert unit.hear() == "STOPPING=1"
    assert unit.process.wait(20) == 0
    assert unit.asked("rename") == ["rename rbee-queen rbee-queen-leaving-0123456789ab"]
    assert len(unit.asked("rm")) == 1
    (unit.folder / "state").write_text("gone")


def test_a_container_that_has_nothing_open_just_ends(unit: Unit) -> None:
    """No name is left behind."""
    unit.hear()
    (unit.folder / "quick").touch()
    (unit.run / "running.json").write_text("{}")
    unit.process.send_signal(signal.SIGTERM)
    assert unit.process.wait(20) == 0
    assert unit.asked("rename") == []


def test_a_container_that_ends_by_itself_ends_the_unit(unit: Unit) -> None:
    """The service manager gets the status of the process inside, and starts it again."""
    unit.hear()
    (unit.folder / "status").write_text("64")
    (unit.folder / "state").write_text("gone")
    assert unit.process.wait(20) == 64


def test_an_end_that_nobody_asked_for_is_a_failure(unit: Unit) -> None:
    """As when Docker's daemon ends all its containers: systemd is to start it again, whatever it says."""
    unit.hear()
    (unit.folder / "state").write_text("gone")
    assert unit.process.wait(20) == 1


def test_a_daemon_that_is_away_ends_nothing(unit: Unit) -> None:
    """While nobody can say whether the container runs, it is taken to run, and its words go on coming through."""
    unit.hear()
    (unit.folder / "silent").touch()
    (client,) = Path(f"/proc/{unit.process.pid}/task/{unit.process.pid}/children").read_text().split()
    os.kill(int(client), signal.SIGKILL)
    time.sleep(1.5)
    assert unit.process.poll() is None
    (unit.folder / "silent").unlink()
    (unit.folder / "state").write_text("gone")
    assert unit.process.wait(20) != 0


def test_what_speaks_without_pause_is_not_listened_to_for_ever(queen: HousedRole) -> None:
    """After some words it is looked whether anybody wants the unit to end."""
    heard: list[int] = []

    def recv(most: int) -> bytes:
        heard.append(most)
        return b"FDSTORE=1"

    said = SimpleNamespace(recv=recv)
    attendant = attended._Attendant(Engine("docker"), queen, SimpleNamespace(), said)  # type: ignore[arg-type]
    attendant._pass_on()
    assert len(heard) == attended.MOST_AT_ONCE


def test_a_container_that_is_not_ready_is_not_waited_for(unit: Unit) -> None:
    """It may not hear a signal yet: it is ended, and nothing of it stays beside the next one."""
    unit.hear()
    unit.process.send_signal(signal.SIGTERM)
    assert unit.process.wait(20) == 0
    assert (unit.asked("rename"), unit.asked("kill")) == ([], [])
    assert unit.asked("rm") == ["rm --force rbee-queen"] * 2


def test_a_listening_socket_that_does_not_come_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the unit that hands them on, the queen says what to do."""
    monkeypatch.setenv(notify.SOCKETS, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no listening sockets come from .*none .*; restart the unit"):
        notify.inherited_sockets()


def test_systemd_is_waited_for_but_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent is read when the barrier is let go, and a systemd that is away holds nobody up."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))

        def read() -> None:
            time.sleep(0.2)
            _, descriptors, _, _ = socket.recv_fds(systemd, 64, 1)
            os.close(descriptors[0])

        reader = threading.Thread(target=read)
        reader.start()
        begun = time.monotonic()
        notify.wait_read(10)
        assert 0.15 < time.monotonic() - begun < 5
        reader.join()
    path.unlink()
    notify.wait_read(10)
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify.wait_read(10)
