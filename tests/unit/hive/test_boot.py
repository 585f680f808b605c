"""A hive that starts with a document on disk, as after a reboot, while nobody has looked at the devices yet."""

import json
import time

import pytest

from rbee_runtime.config import DeviceSettings, HiveConfig, SimulatedDevice
from rbee_runtime.devices.cpu import CpuProbe
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.devices.simulated import SimulatedProbe
from rbee_runtime.protocol import Desired, WorkerSpec, encode
from tests.unit.hive.conftest import Queen, Start, desired, fake
from tests.unit.hive.waiting import until

CARD = SimulatedDevice(id="gpu", kind="nvidia", name="card", total=24 * 1024**3)


def keep(settings: HiveConfig, document: Desired) -> None:
    settings.state_dir.mkdir(parents=True)
    (settings.state_dir / "desired.json").write_bytes(encode(document))


@pytest.mark.parametrize("seconds", [0.0, 1.0], ids=["quick probe", "slow probe"])
async def test_workers_of_one_card_start_one_after_the_other(
    start: Start, settings: HiveConfig, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """However long the first look at the devices takes, only one worker loads on a card after a reboot."""
    plain = SimulatedProbe.read

    def read(probe: SimulatedProbe, workers: Workers) -> Reading:
        time.sleep(seconds)
        return plain(probe, workers)

    monkeypatch.setattr(SimulatedProbe, "read", read)
    workers = [
        WorkerSpec(id=f"w{number}", model="m", engine="fake", devices=("gpu",), options={"load_s": 600})
        for number in range(3)
    ]
    keep(settings, desired(1, *workers, sources={"m": "fake:load_s=600"}))
    _, queen = await start(devices=DeviceSettings(simulate=(CARD,)))
    await until(lambda: loads(queen))
    found = (await queen.get("/api/v1/workers")).json()
    assert sorted(each["state"] for each in found) == ["backoff", "backoff", "starting"]
    assert {each["detail"] for each in found if each["state"] == "backoff"} == {"waits its turn: w0 loads on gpu"}


async def test_the_first_look_at_devices_knows_the_workers_that_run(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory of workers that a new hive adopts is not taken for somebody else's until its second look."""
    first, queen = await start()
    await queen.put(desired(1, fake("w")))
    await until(lambda: queen.in_state("w", "ready"))
    pids = first.supervisor.pids
    await first.stop(stop_workers=False)
    asked: list[set[int]] = []
    plain = CpuProbe.read

    def read(probe: CpuProbe, workers: Workers) -> Reading:
        asked.append(set(workers))
        return plain(probe, workers)

    monkeypatch.setattr(CpuProbe, "read", read)
    _, queen = await start()
    await until(lambda: queen.in_state("w", "ready"))
    assert (len(pids), asked[0]) == (1, set(pids))


async def loads(queen: Queen) -> bool:
    return any(each["state"] == "starting" for each in (await queen.get("/api/v1/workers")).json())


async def test_engines_are_judged_by_the_devices_from_the_first_look(start: Start, settings: HiveConfig) -> None:
    """An engine for CUDA is not started at boot on a host that turns out to have none."""
    folder = settings.engines_dir / "llama-cpp-1-cuda12-aaaaaaaa"
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(json.dumps({"name": "llama-cpp", "version": "1", "variant": "cuda12"}))
    keep(settings, desired(1, WorkerSpec(id="w", model="m", engine="llama-cpp")))
    _, queen = await start()
    found = await until(lambda: queen.worker("w"))
    assert (found["state"], found["last_exit"], found["exit_status"]) == ("exited", "engine_missing", None)
