"""What a person is told of one worker."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.hive.answers import WorkerDetail
from rbee_runtime.hive.details import detail
from rbee_runtime.protocol import DeviceReport
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports

CARD = DeviceReport(id="G1", kind="nvidia", name="card", total=10, used=0)


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a hive with one card whose workers refuse their model."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(4)), ScriptedLauncher(clock, ends=65), clock)
    made.scan = Scan((CARD,))
    yield made
    await made.close()


def told(hive: Rig, name: str) -> WorkerDetail:
    """Return the details of a worker."""
    report = hive.report(name)
    assert report is not None
    return detail("h1", report, hive.supervisor, now=hive.clock())


async def test_what_was_refused_and_then_repaired_is_not_called_blocked(hive: Rig) -> None:
    """A worker that runs again, because somebody wrote its model's files anew, is not said to be given up."""
    await hive.follow(document(1, worker("a")))
    await hive.simulate(5)
    before = told(hive, "a")
    record = hive.supervisor._records["a"]
    hive.supervisor._records.put(msgspec.structs.replace(record, blocked=f"{record.blocked}-before"))
    hive.launcher.ends = None  # type: ignore[attr-defined]
    await hive.simulate(5)
    after = told(hive, "a")
    assert (before.blocked, before.next_step) == (True, "it is not tried again until its spec or its model changes")
    assert (after.blocked, after.next_step) == (False, "it takes requests once its model is loaded")


async def test_a_worker_that_waits_its_turn_is_told_what_comes_next(hive: Rig) -> None:
    """Without a time to wait for, the next step is the end of what it waits for."""
    hive.launcher.ends = None  # type: ignore[attr-defined]
    await hive.follow(document(1, worker("a", "G1"), worker("b", "G1")))
    await hive.simulate(5)
    found = told(hive, "b")
    assert found.report.detail == "waits its turn: a loads on G1"
    assert found.next_step == "it is started as soon as it need not wait any more"
