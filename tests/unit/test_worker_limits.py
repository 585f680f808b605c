"""How much memory one worker may take where nobody says it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime import worker_limits
from rbee_runtime.config import HiveConfig
from rbee_runtime.guard import config as guard_config
from rbee_runtime.hive.launchers import around
from tests.unit.guard.test_config import EXAMPLE


def _unknown(_: str) -> int:
    raise ValueError("unrecognized configuration name")


@pytest.mark.parametrize(
    ("given", "sysconf", "bytes_"),
    [
        (7, {"SC_PHYS_PAGES": 4096, "SC_PAGE_SIZE": 4096}.__getitem__, 7),
        (None, {"SC_PHYS_PAGES": 4096, "SC_PAGE_SIZE": 4096}.__getitem__, 15099494),
        (None, {"SC_PHYS_PAGES": 256, "SC_PAGE_SIZE": 65536}.__getitem__, 15099494),
        (None, {"SC_PHYS_PAGES": -1, "SC_PAGE_SIZE": 4096}.__getitem__, None),
        (None, _unknown, None),
    ],
)
def test_a_worker_may_take_a_share(given: int | None, sysconf: Callable[[str], int], bytes_: int | None) -> None:
    """What is given counts, else nine tenths of what the host has; a host that does not tell sets no limit."""
    assert worker_limits.memory(given, sysconf=sysconf) == bytes_


def test_hive_and_guard_come_to_the_same_limit(tmp_path: Path) -> None:
    """A hive whose settings name no limit asks for exactly the one that its guard allows, and never for none."""
    path = tmp_path / "guard.json"
    path.write_text(json.dumps(EXAMPLE | {"memory_limit": None}))
    asked = around.surroundings(HiveConfig(launcher="podman")).settings.memory_limit
    assert asked == guard_config.load(path).memory_limit
    assert asked is not None
