"""Devices that nobody can see because their driver does not let anybody look: said everywhere a person looks."""

import threading
from pathlib import Path

import pytest

from rbee_runtime.config import DeviceSettings
from rbee_runtime.devices import Scan, presence
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.devices.recorded import RecordedProbe
from rbee_runtime.hive import fences
from rbee_runtime.protocol import DeviceReport, WorkerSpec
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

RECORDING = Path(__file__).parents[2] / "recordings" / "devices" / "synthetic_driver_mismatch.json"
MISMATCH = "different versions"
H100 = RECORDING.with_name("synthetic_h100.json")
H100_ID = "GPU-5e1a0a10-0000-4000-8000-000000000001"


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


async def test_a_driver_that_comes_up_slowly_moves_no_worker(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its first answer the worker waits without the reason that sends it to another host, then it starts."""
    answer = threading.Event()
    read = RecordedProbe.read

    def slow(probe: RecordedProbe, workers: Workers) -> Reading:
        if probe.kind == "nvidia":
            answer.wait(60)
        return read(probe, workers)

    monkeypatch.setattr(RecordedProbe, "read", slow)
    monkeypatch.setattr(presence, "SILENCE_SECONDS", 600.0)
    _, queen = await start(devices=DeviceSettings(recorded=H100))
    await queen.put(desired(1, WorkerSpec(id="w-gpu", model="m", engine="fake", devices=(H100_ID,))))
    await until(lambda: queen.in_state("w-gpu", "backoff"))
    found = await queen.worker("w-gpu")
    answer.set()
    assert found["last_exit"] is None
    said = "the nvidia devices did not answer within 3 s; its driver may still come up"
    assert found["detail"] == f"device {H100_ID} cannot be seen: {said}"
    await until(lambda: queen.in_state("w-gpu", "ready"))
