"""How much memory one worker may take where nobody says it."""

import json
from pathlib import Path

import pytest

from rbee_runtime import worker_limits
from rbee_runtime.config import HiveConfig
from rbee_runtime.guard import config as guard_config
from rbee_runtime.hive.launchers import around
from tests.unit.guard.test_config import EXAMPLE


@pytest.mark.parametrize(
    ("given", "text", "bytes_"),
    [
        (7, "MemTotal:       16384 kB\n", 7),
        (None, "MemTotal:       16384 kB\nMemFree: 1 kB\n", 15099494),
        (None, "MemFree: 1 kB\n", None),
        (None, "MemTotal:\n", None),
        (None, "", None),
    ],
)
def test_a_worker_may_take_a_share(given: int | None, text: str, bytes_: int | None, tmp_path: Path) -> None:
    """What is given counts, else nine tenths of what the host has; a host that does not tell sets no limit."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    assert worker_limits.memory(given, meminfo=meminfo) == bytes_
    assert worker_limits.memory(None, meminfo=tmp_path / "none") is None


def test_hive_and_guard_come_to_the_same_limit(tmp_path: Path) -> None:
    """A hive whose settings name no limit asks for exactly the one that its guard allows, and never for none."""
    path = tmp_path / "guard.json"
    path.write_text(json.dumps(EXAMPLE | {"memory_limit": None}))
    asked = around.surroundings(HiveConfig(launcher="podman")).settings.memory_limit
    assert asked == guard_config.load(path).memory_limit
    assert asked is not None
