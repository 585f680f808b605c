"""What a hive does with its workers when it ends together with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Launcher, Phase, UnitStatus
from rbee_runtime.hive.launchers.stopping import stop_all
from rbee_runtime.states import ExitReason
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports


@dataclass
class Reluctant(ScriptedLauncher):
    """Refuses `refusals` stops, and each look at it takes a second."""

    refusals: int = 0

    async def list(self) -> Mapping[str, UnitStatus]:
        self.clock.now += 1.0
        return await super().list()

    async def stop(self, worker: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise LauncherError("the engine is busy")
        await super().stop(worker)


def made(folder: Path, launcher: ScriptedLauncher) -> Rig:
    """Return a hive without workers."""
    return rig(settings(folder, free_ports(4)), launcher, launcher.clock)


async def test_a_worker_that_was_only_just_started_is_stopped_too(tmp_path: Path) -> None:
    """A worker that no look has seen yet does not outlive a hive that takes its workers with it."""
    hive = made(tmp_path, ScriptedLauncher(Clock()))
    await hive.follow(document(1, worker("a")))
    assert hive.supervisor.views["a"].status is None
    await hive.supervisor.stop_all(within=0.0)
    await hive.close()
    assert await hive.launcher.list() == {}


async def test_a_stop_that_is_refused_is_asked_for_again(tmp_path: Path) -> None:
    """One refusal does not leave a worker behind, and its end is on record as asked for."""
    launcher = Reluctant(Clock())
    hive = made(tmp_path, launcher)
    await hive.follow(document(1, worker("a")))
    launcher.refusals = 1
    await hive.supervisor.stop_all(within=60.0)
    assert launcher.statuses == {}
    await hive.follow(document(2, worker("a")))
    await hive.close()
    assert hive.supervisor.views["a"].decision.record.last_exit is ExitReason.ASKED


async def test_a_launcher_that_is_gone_does_not_keep_the_hive_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be listed cannot be stopped: that is told, and the hive ends."""

    async def fail() -> Mapping[str, UnitStatus]:
        raise LauncherError("the engine does not answer")

    hive = made(tmp_path, ScriptedLauncher(Clock()))
    monkeypatch.setattr(hive.launcher, "list", fail)
    await hive.supervisor.stop_all(within=60.0)
    await hive.close()
    assert "the engine does not answer" in capsys.readouterr().err


async def test_everything_of_a_host_is_asked_again_too() -> None:
    """`rbee.target` stops also the worker whose first stop was refused."""
    launcher = Reluctant(Clock(), refusals=1)
    launcher.statuses = {name: UnitStatus(name, Phase.RUNNING, pid=1) for name in ("a", "b")}
    left = await stop_all(cast("Launcher", launcher), within=60.0, clock=launcher.clock, every=0.01)
    assert (left, launcher.statuses) == ((), {})
