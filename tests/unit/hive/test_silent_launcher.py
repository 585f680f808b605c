"""A hive that starts while its container engine or systemd does not answer."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.config import DeviceSettings, HiveConfig
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.hive.launchers import UnitStatus
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.protocol import ModelSpec
from tests.unit.devices.recordings import copied
from tests.unit.hive.conftest import Queen, Start, desired, fake
from tests.unit.hive.waiting import until

SILENT = "cannot list its workers: docker does not answer"


async def test_workers_models_and_engines_are_shown_until_the_launcher_answers(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves is told ready by its own answers, what cannot start says why, and nothing is done about either."""
    recording = tmp_path / "devices.json"
    content = copied("synthetic_h100", recording)
    first, queen = await start(devices=DeviceSettings(recorded=recording))
    await queen.put(desired(1, fake("serves")))
    await until(lambda: queen.in_state("serves", "ready"))
    pid = (await queen.worker("serves"))["unit"]
    content["readings"][0]["raw"]["gpus"][0]["processes"] = [[int(pid.removeprefix("pid ")), 5]]
    recording.write_text(json.dumps(content))
    await first.stop(stop_workers=False)

    async def down(_: ProcessLauncher) -> Mapping[str, UnitStatus]:
        raise LauncherError(SILENT)

    monkeypatch.setattr("rbee_runtime.hive.attached.FIRST_LOOK_SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ProcessLauncher, "list", down)
        second, queen = await start(devices=DeviceSettings(recorded=recording))
        await queen.put(desired(2, fake("serves"), fake("new")))
        await until(lambda: queen.in_state("serves", "ready"))
        info = (await queen.get("/api/v1/info")).json()
        new, known = await queen.worker("new"), second.supervisor.fetching.models["m"].ready
        ready = await queen.get("/ready")
        nobody = await processes(queen)
    assert nobody == []
    assert (new["state"], new["port"]) == ("backoff", 0)
    assert SILENT in new["detail"]
    assert info["engines"] == ["fake"]
    assert known
    assert SILENT in info["detail"]
    assert (ready.status_code, SILENT in ready.json()["detail"]) == (503, True)
    await until(lambda: queen.in_state("new", "ready"))
    assert (await queen.worker("serves"))["unit"] == pid
    await until(lambda: processes(queen))
    assert [each["worker"] for each in await processes(queen)] == ["serves"]


async def processes(queen: Queen) -> list[dict[str, Any]]:
    """Return what the hive tells of processes on its card."""
    found = (await queen.get("/api/v1/devices")).json()
    return next(device["processes"] for device in found if device["kind"] == "nvidia")


async def test_the_model_of_a_worker_without_record_stays_until_the_launcher_answers(
    start: Start, settings: HiveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With record and document lost its launch file still says what is in use."""
    first, queen = await start()
    await queen.put(desired(1, fake("serves")))
    await until(lambda: queen.in_state("serves", "ready"))
    await first.stop(stop_workers=False)
    for name in ("desired.json", "records/serves.json"):
        (settings.state_dir / name).unlink()

    async def down(_: ProcessLauncher) -> Mapping[str, UnitStatus]:
        raise LauncherError(SILENT)

    looked: list[Collection[str]] = []
    look = Fetching.look

    async def noted(self: Fetching, wanted: Sequence[ModelSpec], in_use: Collection[str] = (), *more: Any) -> None:
        looked.append(in_use)
        await look(self, wanted, in_use, *more)

    monkeypatch.setattr("rbee_runtime.hive.attached.FIRST_LOOK_SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ProcessLauncher, "list", down)
        patch.setattr(Fetching, "look", noted)
        await start()
        await until(lambda: looked)
    assert [sorted(each) for each in looked] == [["m"]] * len(looked)
