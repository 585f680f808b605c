"""Intel's GPUs: memory from the driver or the board's data sheet, use from our own processes."""

from pathlib import Path

import pytest

from rbee_runtime.devices import recorded
from rbee_runtime.devices.intel import IntelProbe
from rbee_runtime.devices.tree import HostTree
from tests.unit.devices.recordings import played, raw

GIB = 1024**3
MIB = 1024**2


@pytest.mark.parametrize(
    ("device", "name", "total", "source"),
    [
        ("0000:03:00.0", "Intel Arc B580", 12168 * MIB, "driver"),
        ("0000:07:00.0", "Intel Arc A770", 16 * GIB, "board"),
        ("0000:0a:00.0", "Intel Arc A770", 8 * GIB, "board"),
        ("0000:0d:00.0", "Intel Data Center GPU Flex 170", 16 * GIB, "driver"),
    ],
)
def test_memory_is_the_drivers_figure_or_the_boards(device: str, name: str, total: int, source: str) -> None:
    """A board sold in two sizes is as large as its window shows, and the smaller one without resizable BAR."""
    found = {each.id: each for each in played("synthetic_arc").devices}[device]
    assert (found.name, found.total, found.attributes["memory_source"]) == (name, total, source)


def test_integrated_graphics_are_not_offered_and_unknown_boards_are_told() -> None:
    """Neither has a known memory of its own."""
    found = played("synthetic_arc")
    assert len(found.devices) == 4
    (problem,) = found.problems
    assert "0000:11:00.0 is not used" in problem
    assert "update the kernel" in problem


def test_memory_of_our_processes_is_counted_once_per_client() -> None:
    """Several open files of one client say the same; clients add up; that others are not seen is said."""
    found = played("synthetic_arc", {4100: frozenset((4100, 9999))})
    devices = {each.id: each for each in found.devices}
    assert found.processes["0000:03:00.0"] == {4100: 3 * GIB + 512 * MIB}
    assert found.processes["0000:07:00.0"] == {4100: GIB}
    assert devices["0000:03:00.0"].used == 3 * GIB + 512 * MIB
    assert devices["0000:03:00.0"].attributes["memory_used"] == "own processes"


def test_a_driver_that_counts_free_memory_is_believed() -> None:
    """Intel's own builds of i915 say what all processes take."""
    flex = played("synthetic_arc").devices[-1]
    assert (flex.used, "memory_used" in flex.attributes) == (6 * GIB, False)


def test_a_known_board_is_found_on_the_first_bus_too() -> None:
    """Virtual machines put cards that they are given there."""
    recording = raw("synthetic_arc")
    recording["links"]["/sys/class/drm/card2/device"] = "0000:00:10.0"
    found = recorded.play("intel", recording, {}).devices
    assert ("0000:00:10.0", 16 * GIB) in [(each.id, each.total) for each in found]


def test_a_host_without_intel_gpus_is_absent(tmp_path: Path) -> None:
    """An empty /sys is no problem."""
    assert IntelProbe(HostTree(str(tmp_path))).read({}).absent
