"""Devices that nobody can see because their driver does not let anybody look: said everywhere a person looks."""

from pathlib import Path

import pytest

from rbee_runtime.config import DeviceSettings
from rbee_runtime.devices import Scan
from rbee_runtime.hive import fences
from rbee_runtime.protocol import DeviceReport, WorkerSpec
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until

RECORDING = Path(__file__).parents[2] / "recordings" / "devices" / "synthetic_driver_mismatch.json"
MISMATCH = "different versions"


async def test_a_driver_that_does_not_fit_its_library_is_told_and_starts_nothing(start: Start) -> None:
    """The API, the status line and the worker on the card say what to do; a worker on the processor serves."""
    hive, queen = await start(devices=DeviceSettings(recorded=RECORDING))
    on_card = WorkerSpec(id="w-gpu", model="m", engine="fake", devices=("GPU-1",))
    await queen.put(desired(1, on_card, fake("w-cpu")))
    await until(lambda: queen.in_state("w-cpu", "ready"))
    found = await queen.worker("w-gpu")
    assert (found["state"], found["last_exit"]) == ("exited", "device_lost")
    assert found["detail"].startswith("device GPU-1 cannot be seen: ")
    assert MISMATCH in found["detail"]
    assert MISMATCH in (await queen.get("/api/v1/info")).json()["detail"]
    assert MISMATCH in hive.summary


CPU = DeviceReport(id="cpu", kind="cpu", name="c", total=1, used=0)
CARD = DeviceReport(id="G1", kind="nvidia", name="card", total=1, used=0)
COMPLAINTS = (("nvidia", "GPU 1 is off the bus"), ("nvidia", "GPU 1 is off the bus"), ("amd", "no driver"))


@pytest.mark.parametrize(
    ("scan", "found"),
    [
        (None, {}),
        (Scan((CPU, CARD)), {}),
        (Scan((CPU, CARD), COMPLAINTS), {"G2": "GPU 1 is off the bus; no driver"}),
    ],
    ids=["not looked yet", "no complaints", "complaints"],
)
def test_only_what_no_look_has_seen_is_unjudged(scan: Scan | None, found: dict[str, str]) -> None:
    """A complaint about one device says nothing about those that are seen, nor about the processor."""
    assert fences.unjudged(scan, ("cpu", "G1", "G2")) == found
