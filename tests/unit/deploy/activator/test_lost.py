"""Hosts that go over to no container at all while the engine of what they run does not answer, or is gone."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from rbee_deploy.activator import activation, images, lost, published, units
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.units import ActivationError, Unit
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import FakeSystemd, staged, state

GUARD = {"fleet": "f", "hive": "h", "network": "n", "images": []}
IDS = {"rbee-queen": 994, "rbee-hive": 993, "rbee-worker": 992, "anna": 1000}
FELL_BACK = {"fallback": "it could not"}
ONE, TWO = "1" * 64, "a2" * 32
PODMAN_S, DOCKER_S = f"machine.slice/libpod-{ONE}.scope/container", f"system.slice/docker-{ONE}.scope"
LLAMA = "/opt/rbee/engines/llama-cpp/llama-server --model /m"


class Processes:
    """A made-up /proc; who is named `deaf` hears SIGKILL alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[int, int]] = []
        self.deaf: set[int] = set()
        self.withdrawn: list[str] = []
        self._handles: dict[int, int] = {}

    def begin(self, pid: int, user: str, group: str, command: str = "", *, state: str = "S (sleeping)") -> None:
        """Have a process, which runs the program of its user unless `command` is another."""
        process = self.folder / str(pid)
        process.mkdir(parents=True)
        words = command or f"/opt/rbee/releases/0.1/bin/python /opt/rbee/current/bin/{user} --config x"
        (process / "cmdline").write_text(words.replace(" ", "\0") + "\0")
        (process / "status").write_text(f"Name:\tx\nState:\t{state}\nUid:\t{IDS[user]}\t0\t0\t0\n")
        (process / "cgroup").write_text(group if ":" in group else f"0::/{group}\n")

    def open(self, pid: int) -> int:
        handle = os.open(self.folder, os.O_RDONLY)
        self._handles[handle] = pid
        return handle

    def send(self, handle: int, number: int) -> None:
        pid = self._handles[handle]
        self.sent.append((pid, number))
        if pid not in self.deaf or number == signal.SIGKILL:
            shutil.rmtree(self.folder / str(pid))

    def running(self) -> set[int]:
        return {int(path.name) for path in self.folder.glob("[0-9]*")}


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    """Give a host with processes of ours in containers, of a worker that is a unit, of a person, and a dead one."""
    made = Processes(tmp_path / "proc")
    for pid, user, group in (
        (10, "rbee-queen", f"system.slice/rbee-queen.service/libpod-payload-{TWO}"),
        (11, "rbee-hive", DOCKER_S),
        (12, "rbee-worker", PODMAN_S),
        (13, "rbee-worker", "system.slice/system-rbee.slice/rbee-worker@echo.service"),
        (14, "anna", PODMAN_S),
    ):
        made.begin(pid, user, group)
    made.begin(15, "rbee-worker", PODMAN_S, state="Z (zombie)")
    users = [SimpleNamespace(pw_name=name, pw_uid=uid) for name, uid in IDS.items()]
    monkeypatch.setattr(lost, "PROC", made.folder)
    monkeypatch.setattr(lost, "END_SECONDS", 0.3)
    monkeypatch.setattr(published, "withdraw", made.withdrawn.append)
    monkeypatch.setattr("pwd.getpwall", lambda: users)
    monkeypatch.setattr(os, "pidfd_open", made.open)
    monkeypatch.setattr(signal, "pidfd_send_signal", made.send)
    return made


def contained(engine: str) -> Generation:
    """Go over to containers of an engine, by its command."""
    wanted = staged("r1", {"guard.json": json.dumps({"engine": engine, **GUARD})}, contained=True)
    activation.activate(wanted.id, Told())
    return wanted


def test_a_host_that_lost_its_engine_falls_back(
    systemd: FakeSystemd, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way to bare goes through: what is left of containers ends, a line says what stays, and nobody else's ends."""
    contained("false")
    for name in lost.UNITS:
        systemd.known[name] = Unit(active="active", load="loaded")
    systemd.calls.clear()
    processes.deaf.add(12)
    wanted = staged("r2", FELL_BACK)
    activation.activate(wanted.id, Told())
    assert state().current == wanted.id
    assert systemd.calls[:3] == [f"stop {name}" for name in lost.UNITS]
    assert set(systemd.ran) == {ports.QUEEN_UNIT, ports.HIVE_UNIT}
    assert processes.running() == {13, 14, 15}
    assert processes.sent[-1] == (12, signal.SIGKILL)
    assert processes.withdrawn == ["n"]
    assert {pid for pid, number in processes.sent if number == signal.SIGTERM} == {10, 11, 12}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: false does not answer: what the engine of containers ran here is ended without it,"
    )


@pytest.mark.parametrize(
    ("engine", "fell_back", "goes"),
    [("false", True, True), ("false", False, False), ("no-such-engine", False, True), ("no-such-engine", True, True)],
    ids=["falls back", "a person can start it", "is gone", "is gone, falls back"],
)
def test_whoever_can_start_the_engine_is_told_to(
    engine: str, fell_back: bool, goes: bool, systemd: FakeSystemd, processes: Processes
) -> None:
    """Bare by a person's word waits for an engine that is there; nobody waits for one that is not."""
    before = contained(engine)
    wanted = staged("r2", FELL_BACK if fell_back else {})
    if goes:
        activation.activate(wanted.id, Told())
    else:
        with pytest.raises(ActivationError, match="false does not say which workers of this host are its containers"):
            activation.activate(wanted.id, Told())
        assert processes.sent == []
    assert state().current == (wanted if goes else before).id


def test_an_engine_that_answers_is_left_as_ever(
    systemd: FakeSystemd, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fallback alone ends nothing without the engine."""
    contained("true")
    ended: list[str] = []
    monkeypatch.setattr(images, "end", lambda known, **_how: ended.append(known.engine))
    activation.activate(staged("r2", FELL_BACK).id, Told())
    assert (ended, processes.sent, processes.withdrawn) == (["true"], [], [])


@pytest.mark.parametrize("fell_back", [True, False])
def test_an_engine_that_removes_nothing_is_as_good_as_lost(
    fell_back: bool,
    systemd: FakeSystemd,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that says what it runs and cannot end it keeps no host from falling back, and a person who writes bare."""
    contained("true")

    def fails(_known: object, **_how: object) -> None:
        raise ActivationError("true did not remove the containers of this host's workers: see `true ps --all`")

    monkeypatch.setattr(images, "end", fails)
    wanted = staged("r2", FELL_BACK if fell_back else {})
    if not fell_back:
        with pytest.raises(ActivationError, match="true did not remove the containers"):
            activation.activate(wanted.id, Told())
        assert processes.sent == []
        return
    activation.activate(wanted.id, Told())
    assert processes.running() == {13, 14, 15}
    assert capsys.readouterr().err.startswith("warning: true did not remove the containers of this host's workers: see")


def test_containers_of_another_way_wait_for_the_engine(systemd: FakeSystemd, processes: Processes) -> None:
    """A host that goes over to another engine keeps its workers where nobody can end them."""
    contained("false")
    text = json.dumps({"engine": "true", **GUARD})
    with pytest.raises(ActivationError, match="false does not say which workers"):
        activation.activate(staged("r2", {"guard.json": text, **FELL_BACK}, contained=True).id, Told())
    assert processes.sent == []


def test_nothing_is_asked_of_units_without_a_name(
    systemd: FakeSystemd, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host on which no unit of ours is known is not asked to stop none, which systemd refuses."""
    monkeypatch.setattr(units, "look", lambda names: {name: Unit(load="not-found") for name in names})
    way = staged("r1", {"guard.json": json.dumps({"engine": "no-such-engine", **GUARD})}, contained=True)
    lost.end_workers([way], staged("r2"))
    assert [call for call in systemd.calls if call.startswith("stop")] == []


GROUPS = {
    "Podman's": PODMAN_S,
    "Podman's by runc": f"machine.slice/libpod-{ONE}.scope",
    "Podman's own": f"libpod_parent/libpod-{ONE}",
    "of Quadlet": f"system.slice/rbee-queen.service/libpod-payload-{ONE}",
    "Docker's": DOCKER_S,
    "Docker's own": f"docker/{ONE}",
    "rootless": f"user.slice/user-991.slice/user@991.service/user.slice/libpod-{ONE}.scope/container",
    "rootless without a bus": "system.slice/rbee-podman.service",
    "legacy": f"9:name=systemd:/{DOCKER_S}\n8:pids:/\n0::/\n",
}
OTHERS = {
    "a host inside": f"machine.slice/machine-box.scope/payload/system.slice/docker-{ONE}.scope",
    "a host inside another's": f"{DOCKER_S}/system.slice/rbee-queen.service",
    "an engine inside another's": f"docker/{TWO}/docker/{ONE}",
    "a unit of a host inside": "lxc.payload.box/system.slice/rbee-podman.service",
    "a service": "system.slice/foreign.service",
    "a session": "user.slice/user-1000.slice/session-2.scope",
    "a worker's unit": "system.slice/system-rbee.slice/rbee-worker@echo.service",
}


def lose(processes: Processes) -> set[int]:
    """Lose the engine, and return which processes ended."""
    before = processes.running()
    way = staged("r1", {"guard.json": json.dumps({"engine": "no-such-engine", **GUARD})}, contained=True)
    lost.end_workers([way], staged("r2"))
    return before - processes.running()


@pytest.mark.parametrize("deaf", [set(), {21, 22}], ids=["in time", "by force"])
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_all_of_a_container_of_ours_ends(
    group: str, deaf: set[int], systemd: FakeSystemd, processes: Processes
) -> None:
    """Also what a program of ours has started there, which does not bear its name, and outlives it."""
    processes.begin(20, "rbee-worker", group)
    processes.begin(21, "rbee-worker", group, LLAMA)
    processes.begin(22, "rbee-queen", group, "python -m rbee_runtime.queen.serve --config x")
    processes.begin(23, "anna", group)
    processes.deaf |= deaf
    assert lose(processes) == {10, 11, 12, 20, 21, 22}


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("rbee-worker", "sleep infinity"),
        ("rbee-queen", "mysqld --datadir /var/lib/mysql rbee-queen"),
        ("rbee-queen", "/bin/rbee-hive --config x"),
        ("rbee-hive", "/usr/bin/not-rbee-hive"),
    ],
)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_a_container_of_somebody_else_s_runs_on(
    group: str, user: str, command: str, systemd: FakeSystemd, processes: Processes
) -> None:
    """Whatever engine runs it, and with the number of one of our users."""
    processes.begin(20, user, group.replace(ONE, "f" * 64), command)
    assert lose(processes) == {10, 11, 12}


@pytest.mark.parametrize("group", OTHERS.values(), ids=OTHERS)
def test_what_is_in_no_container_of_this_host_runs_on(group: str, systemd: FakeSystemd, processes: Processes) -> None:
    """Even a program of ours: hosts in containers of this one have rbee and numbers of their own."""
    processes.begin(20, "rbee-queen", group)
    assert lose(processes) == {10, 11, 12}
