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


class Processes:
    """A made-up /proc; who is named `deaf` hears SIGKILL alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[int, int]] = []
        self.deaf: set[int] = set()
        self.withdrawn: list[str] = []
        self._handles: dict[int, int] = {}

    def begin(self, pid: int, user: str, group: str, state: str = "S (sleeping)") -> None:
        process = self.folder / str(pid)
        process.mkdir(parents=True)
        (process / "status").write_text(f"Name:\tx\nState:\t{state}\nUid:\t{IDS[user]}\t0\t0\t0\n")
        (process / "cgroup").write_text(f"0::/{group}\n")

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
        (10, "rbee-queen", "system.slice/rbee-queen.service/libpod-payload-1"),
        (11, "rbee-hive", "system.slice/docker-2.scope"),
        (12, "rbee-worker", "machine.slice/libpod-3.scope/container"),
        (13, "rbee-worker", "system.slice/system-rbee.slice/rbee-worker@echo.service"),
        (14, "anna", "machine.slice/libpod-4.scope"),
    ):
        made.begin(pid, user, group)
    made.begin(15, "rbee-worker", "machine.slice/libpod-5.scope", "Z (zombie)")
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
