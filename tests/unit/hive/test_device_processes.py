"""Whose processes have the memory of a device."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime.config import DeviceSettings
from rbee_runtime.protocol import DeviceReport
from tests.unit.devices.recordings import copied
from tests.unit.hive.conftest import Queen, Start, desired, fake
from tests.unit.hive.waiting import until

OTHERS = 4194305
"""More than the highest pid that Linux gives."""


async def on_the_card(queen: Queen) -> list[dict[str, Any]]:
    """Return the processes on the recorded GPU as the hive tells them now."""
    found = (await queen.get("/api/v1/devices")).json()
    return next(device["processes"] for device in found if device["kind"] == "nvidia")


async def test_memory_of_a_device_is_attributed(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our workers are named, others have their pid; what they take may move without an event or an extra heartbeat."""
    recording = tmp_path / "devices.json"
    content = copied("synthetic_h100", recording)
    hive, queen = await start(devices=DeviceSettings(recorded=recording))
    await queen.put(desired(1, fake("w")))
    await until(lambda: queen.in_state("w", "ready"))
    status = hive.supervisor.views["w"].status
    assert status is not None

    async def played(ours: int) -> list[int]:
        content["readings"][0]["raw"]["gpus"][0]["processes"] = [[status.pid, ours], [OTHERS, 900]]
        recording.write_text(json.dumps(content))
        await until(lambda: shows(ours))
        return [event.id for event in hive.events.held() if event.kind == "device_state"]

    async def shows(ours: int) -> bool:
        return await on_the_card(queen) == [
            {"pid": OTHERS, "memory": 900, "worker": None},
            {"pid": status.pid, "memory": ours, "worker": "w"},
        ]

    before = await played(100)
    monkeypatch.setattr(hive.heartbeats, "changed", lambda: pytest.fail("a heartbeat out of turn"))
    assert await played(101) == before


def test_a_report_of_an_older_hive_has_no_processes() -> None:
    """A queen takes what hives of the version before send."""
    old = b'{"id": "G", "kind": "nvidia", "name": "card", "total": 1, "used": 0}'
    assert msgspec.json.decode(old, type=DeviceReport).processes == ()
