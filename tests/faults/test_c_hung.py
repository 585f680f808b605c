"""C3: a real worker that stands still. The short run has shorter limits, not other ones."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee_runtime.hive.attached import boot_clock
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.states import ExitReason, Observed
from tests.faults.rig import Rig, document, rig, settings, worker
from tests.faults.rows import row
from tests.unit.hive.conftest import free_ports
from tests.unit.hive.launcher_contract import end
from tests.unit.hive.waiting import until

LIMITS = {"rbee_runtime.hive.health.SILENCE_SECONDS": "silence", "rbee_runtime.hive.decisions.HUNG_SECONDS": "limit"}


@pytest.fixture
async def serving(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """Return a hive with one real worker that is ready."""
    for place, figure in LIMITS.items():
        monkeypatch.setattr(place, row("C3").figure(figure))
    config = settings(tmp_path, free_ports(4))
    made = rig(config, ProcessLauncher(config.state_dir), boot_clock)
    running = asyncio.create_task(made.supervisor.run())
    await made.supervisor.follow(document(1, worker("w")))
    await until(lambda: state(made) is Observed.READY)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await end(made.launcher, "w")


def state(made: Rig) -> Observed | None:
    report = made.report("w")
    return report.state if report is not None else None


def pid(made: Rig) -> int:
    status = made.supervisor.views["w"].status
    return status.pid or 0 if status is not None else 0


async def test_c3_a_hung_worker_leaves_rotation_and_returns(serving: Rig) -> None:
    """A stopped process is out of rotation in time, and in again after good answers, as the same process."""
    before, begun = pid(serving), time.monotonic()
    os.kill(before, signal.SIGSTOP)
    try:
        await until(lambda: state(serving) is Observed.STARTING, within=60)
        assert time.monotonic() - begun <= row("C3").figure("out_seconds")
    finally:
        os.kill(before, signal.SIGCONT)
    await until(lambda: state(serving) is Observed.READY)
    health = serving.supervisor.prober.health["w"]
    assert health.good >= row("C3").figure("good_probes")
    report = serving.report("w")
    assert report is not None
    assert (pid(serving), report.restarts) == (before, 0)


async def test_c3_a_hung_worker_is_replaced_past_the_limit(serving: Rig) -> None:
    """Past the limit it is killed, counted as failed, and a new process serves."""
    before = pid(serving)
    os.kill(before, signal.SIGSTOP)
    patience = 60 + row("C3").figure("limit")
    await until(lambda: state(serving) is Observed.READY and pid(serving) != before, within=patience)
    report = serving.report("w")
    assert report is not None
    assert (report.restarts, report.last_exit, report.exit_signal) == (1, ExitReason.CRASHED, signal.SIGKILL)
