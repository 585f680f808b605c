"""C1, C2 and M8: workers that end at once, and requests that come at once. Time is injected."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee_runtime.states import ExitReason, Observed
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.faults.rows import row
from tests.ports import free_ports


@pytest.fixture
async def crashing(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a hive on which every worker ends with status 70 as soon as it is started."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(40)), ScriptedLauncher(clock, ends=70), clock)
    yield made
    await made.close()


async def test_c1_attempts_follow_the_schedule(crashing: Rig) -> None:
    """Attempts come at about 0, 1, 3, 7, 15, 31 s, at most 12 in ten minutes; reason and next try are told."""
    begun = crashing.clock.now
    await crashing.follow(document(1, worker("w")))
    await crashing.simulate(600)
    at = [when - begun for _, when in crashing.launcher.starts]  # type: ignore[attr-defined]
    jitter = row("C1").figure("jitter")
    # A try comes with the look after it is due; looks are at most half a second apart then.
    for found, plain in zip(at, row("C1").figure("attempts_at"), strict=False):
        assert plain * (1 - jitter) <= found <= plain * (1 + jitter) + 0.5 * (1 + at.index(found))
    assert len(at) <= row("C1").figure("most_in_600_s")
    report = crashing.report("w")
    assert report is not None
    assert (report.state, report.last_exit, report.exit_status) == (Observed.CRASH_LOOP, ExitReason.CRASHED, 70)
    assert 0 < report.next_try <= 360
    assert "crashed: exit status 70; next try in" in report.detail


async def test_c2_thirty_crash_loops_cost_little(crashing: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten minutes of thirty crash loops take less than a fifth of a core, and at most a line per second and worker."""
    figures = row("C2")
    count = figures.figure("workers")
    begun = time.process_time()
    await crashing.follow(document(1, *(worker(f"w-{number}") for number in range(count))))
    await crashing.simulate(600)
    assert time.process_time() - begun < figures.figure("cpu_share") * 600
    lines = capsys.readouterr().err.splitlines()
    assert 0 < len(lines) <= figures.figure("lines_per_second_and_worker") * 600 * count
    assert {report.state for number in range(count) if (report := crashing.report(f"w-{number}"))} == {
        Observed.CRASH_LOOP
    }


async def test_m8_many_equal_requests_are_one_worker(tmp_path: Path) -> None:
    """Concurrent requests for the same document get equal answers, and one process is started."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(4)), ScriptedLauncher(clock), clock)
    asked = [
        asyncio.create_task(made.supervisor.follow(document(1, worker("w"))))
        for _ in range(row("M8").figure("requests"))
    ]
    await asyncio.sleep(0)
    await made.simulate(20)
    answers = await asyncio.gather(*asked)
    await made.close()
    assert len(answers) == row("M8").figure("requests")
    assert {(answer.epoch, answer.revision) for answer in answers} == {(1, 1)}
    assert [name for name, _ in made.launcher.starts] == ["w"]  # type: ignore[attr-defined]
