"""What an operator reads of workers in the hive's journal: every turn of events once, and nothing again and again."""

import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_runtime import durable
from rbee_runtime.devices import Scan
from rbee_runtime.errors import LauncherError
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.states import Observed
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports

CARDS = Scan(tuple(DeviceReport(id=name, kind="nvidia", name="card", total=10, used=0) for name in ("G1", "G2")))


@dataclass
class Clinging(ScriptedLauncher):
    """Lets go of nobody while `clings`."""

    clings: bool = True

    async def forget(self, worker: str) -> None:
        if self.clings:
            raise LauncherError("access denied")
        await super().forget(worker)


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a hive with two cards whose workers crash."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(4)), Clinging(clock, ends=1), clock)
    made.scan = CARDS
    yield made
    await made.close()


async def test_a_worker_that_waits_its_turn_after_its_schedule_says_so(
    hive: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line about it is no next try that is long past, and it stands there once."""
    await hive.follow(document(1, worker("a", "G1")))
    hive.launcher.ends = None  # type: ignore[attr-defined]
    await hive.follow(document(2, worker("a", "G1"), worker("b", "G1")))
    await hive.simulate(30)
    lines = [line for line in capsys.readouterr().err.splitlines() if "worker_state worker=a" in line]
    assert "next try in" in lines[-2]
    assert "waits its turn: b loads on G1" in lines[-1]


async def test_a_worker_that_cannot_be_forgotten_stays_in_sight_and_is_told_of_once(
    hive: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is listed with the reason for as long as it is there, the journal has one line, and then it goes."""
    await hive.follow(document(1, worker("a")))
    await hive.simulate(3)
    await hive.follow(document(2))
    await hive.simulate(60)
    kept, said = hive.report("a"), capsys.readouterr().err
    assert kept is not None
    assert (kept.state, "access denied" in kept.detail) == (Observed.EXITED, True)
    assert said.count("worker_not_forgotten") == 1
    assert said.count("state=exited") == 1
    hive.launcher.clings = False  # type: ignore[attr-defined]
    await hive.simulate(5)
    assert hive.report("a") is None


async def test_what_was_trouble_is_told_to_be_over(
    hive: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher, a state disk and a model disk that failed are each said once to be well again."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    await hive.follow(document(1, worker("a")))
    places: tuple[tuple[object, str], ...] = (
        (hive.launcher, "list"), (durable, "_replace"), (hive.supervisor.fetching, "look"),
    )  # fmt: skip
    for place, name in places:
        with monkeypatch.context() as broken:
            broken.setattr(place, name, refuse)
            await hive.simulate(30)
        await hive.simulate(30)
    said = [line.split()[1].removeprefix("event=") for line in capsys.readouterr().err.splitlines()]
    told = [event for event in said if event.startswith(("launcher", "state", "disk"))]
    assert " ".join(told) == (
        "launcher_trouble launcher_answers state_not_written state_written disk_trouble disk_answers"
    )
