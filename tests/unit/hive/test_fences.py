"""Devices that nothing may be started on."""

from pathlib import Path

import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.hive import fences
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.states import ExitReason
from tests.faults.rig import Clock, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports

GOOD = DeviceReport(id="G1", kind="nvidia", name="card", total=1, used=0)
BAD = DeviceReport(id="G2", kind="nvidia", name="card", total=1, used=0, healthy=False, detail="fell off the bus")


@pytest.mark.parametrize(
    ("scan", "lost"),
    [
        (None, {}),
        (Scan((GOOD, BAD)), {"G2": "fell off the bus", "G3": "this host has no such device now, it has G1, G2"}),
        (Scan((GOOD,), problems=(("nvidia", "driver hangs"),)), {}),
        (Scan(), {}),
    ],
    ids=["not looked yet", "one bad, one gone", "probe failed", "nothing seen"],
)
def test_a_device_is_lost_when_a_good_look_misses_it(scan: Scan | None, lost: dict[str, str]) -> None:
    """What is unhealthy or gone is lost with its reason; the processor and what nobody could look at are not."""
    assert fences.lost(scan, ("cpu", "G1", "G3")) == lost


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {"G1": ("w",)}),
        ({"ready_since": 5.0}, {}),
        ({"last_exit": ExitReason.CRASHED}, {}),
        ({"devices": ()}, {}),
        ({"devices": ("cpu",)}, {}),
    ],
    ids=["found broken", "ready again", "another end", "on no named device", "on the processor"],
)
def test_a_worker_that_found_a_device_broken_marks_it(changes: dict[str, object], found: dict[str, object]) -> None:
    """The mark stays until that worker is ready there again or ends for another reason."""
    fields = {"id": "w", "devices": ("G1",), "last_exit": ExitReason.DEVICE_LOST} | changes
    assert fences.faults({"w": WorkerRecord(**fields)}) == found  # type: ignore[arg-type]


async def test_a_worker_takes_its_finding_to_no_other_device(tmp_path: Path) -> None:
    """Sent to another device, it marks neither that one, on which it found nothing yet, nor the old one any more."""
    clock = Clock()
    launcher = ScriptedLauncher(clock, ends=74)
    hive = rig(settings(tmp_path, free_ports(4)), launcher, clock)
    hive.scan = Scan((GOOD, DeviceReport(id="G2", kind="nvidia", name="card", total=1, used=0)))
    await hive.follow(document(1, worker("w", "G1")))
    await hive.tick()
    before = hive.supervisor.faults
    launcher.ends = None
    await hive.follow(document(2, worker("w", "G2")))
    await hive.close()
    assert (before, hive.supervisor.faults) == ({"G1": ("w",)}, {})
    assert len(launcher.starts) == 2
