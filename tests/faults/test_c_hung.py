"""C3: a worker that stands still; a real one, with shorter limits in the short run, and one on an injected clock."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.attached import boot_clock
from rbee_runtime.hive.decisions import HUNG_SECONDS
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.hive.probes import PROBE_SECONDS
from rbee_runtime.hive.worker_calls import Reply, WorkerCalls
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.states import ExitReason, Observed
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.faults.rows import row
from tests.ports import free_ports
from tests.unit.hive.launcher_contract import end, process_of
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

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
    return process_of(status) if status is not None else -1


async def test_c3_a_hung_worker_leaves_rotation_and_returns(serving: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process is out of rotation in time, and in again after good answers, as the same process."""
    monkeypatch.setattr("rbee_runtime.hive.decisions.HUNG_SECONDS", HUNG_SECONDS)
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


class Scripted(WorkerCalls):
    """A worker that answers while `answers` says so."""

    answers = True

    async def get(self, base: str, path: str) -> Reply:
        if not self.answers:
            raise ConnectionResetError("no answer")
        return Reply(200, b"{}")


async def probed(made: Rig, seconds: float = PROBE_SECONDS) -> None:
    """Let time pass, probe what is due, and look."""
    made.clock.now += seconds
    prober = made.supervisor.prober
    prober._start_due()
    await asyncio.gather(*(target.pending for target in prober._targets.values() if target.pending is not None))
    await made.tick()


async def test_c3_a_gap_in_the_hives_own_looks_kills_nobody(tmp_path: Path) -> None:
    """A jump of the clock in the midst of silence adds one probe to it; failed probes at the schedule add up."""
    launcher = ScriptedLauncher(Clock())
    made = rig(settings(tmp_path, free_ports(4)), launcher, launcher.clock)
    calls = made.supervisor.prober._calls = Scripted(made.supervisor.prober._calls._link)
    await made.follow(document(1, worker("w")))
    await probed(made)
    await probed(made)
    assert state(made) is Observed.READY
    calls.answers = False
    for pause in (PROBE_SECONDS, row("C3").figure("gap_seconds"), PROBE_SECONDS):
        made.clock.now += pause - PROBE_SECONDS
        await made.tick()
        await probed(made)
    assert (launcher.killed, state(made)) == ([], Observed.READY)
    for _ in range(round(HUNG_SECONDS / PROBE_SECONDS) - 4):
        await probed(made)
    assert launcher.killed == []
    await probed(made)
    await made.close()
    assert launcher.killed == ["w"]


async def test_c3_a_load_that_stopped_lets_its_neighbour_start(tmp_path: Path) -> None:
    """A worker that hangs while it loads is killed after three minutes, and the next one of its card is started."""
    launcher = ScriptedLauncher(Clock())
    made = rig(settings(tmp_path, free_ports(4)), launcher, launcher.clock)
    card = DeviceReport(id="G", kind="nvidia", name="card", total=100, used=0)
    made.scan = Scan((card,))
    still = made.config.state_dir / "proc" / "4001" / "stat"
    still.parent.mkdir(parents=True)
    # Its start is among these, and it lies after the clock's.
    still.write_text(f"4001 (rbee-worker) S {' '.join(['700000'] * 49)}\n")
    await made.follow(document(1, worker("v", "G"), worker("w", "G")))
    begun = made.clock.now
    await made.simulate(row("C3").figure("stuck_seconds") - 2, step=2.0)
    assert ([name for name, _ in launcher.starts], launcher.killed) == (["v"], [])
    assert "waits its turn: v loads on G" in str(made.report("w"))
    await made.simulate(20, step=2.0)
    await made.close()
    assert launcher.killed == ["v"]
    assert launcher.starts[1][0] == "w"
    assert launcher.starts[1][1] - begun <= row("C3").figure("stuck_seconds") + 20


class Refusing(ScriptedLauncher):
    """Refuses to kill for as long as `refuses` says so."""

    refuses = True

    async def kill(self, worker: str) -> None:
        if self.refuses:
            raise LauncherError(f"cannot kill worker {worker}: Access denied")
        await super().kill(worker)


async def test_c3_a_refused_kill_is_told_and_repeated(tmp_path: Path) -> None:
    """The worker's report says why it is still there, the kill is tried every ten seconds, and then it is replaced."""
    launcher = Refusing(Clock())
    made = rig(settings(tmp_path, free_ports(4)), launcher, launcher.clock)
    calls = made.supervisor.prober._calls = Scripted(made.supervisor.prober._calls._link)
    await made.follow(document(1, worker("w")))
    await probed(made)
    await probed(made)
    calls.answers = False
    for _ in range(round(HUNG_SECONDS / PROBE_SECONDS) + 10):
        await probed(made)
    report = made.report("w")
    assert report is not None
    assert report.state is Observed.STOPPING
    assert "gave no answer for 120 s; it could not be told to end: cannot kill worker w: Access denied" in report.detail
    launcher.refuses, calls.answers = False, True
    await made.simulate(14, step=2.0)
    await made.close()
    assert (launcher.killed, [name for name, _ in launcher.starts], made.supervisor._actions.refused) == (
        ["w"],
        ["w", "w"],
        {},
    )
