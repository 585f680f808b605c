"""When a device counts as usable."""

from typing import Any

import pytest

from rbee_runtime.devices.presence import FORGET_SECONDS, SILENCE_SECONDS, Look, Seen, observe
from rbee_runtime.protocol import DeviceReport


def device(name: str = "GPU-1", *, kind: str = "nvidia", **more: Any) -> DeviceReport:
    fields: dict[str, Any] = {"total": 100, "used": 10} | more
    return DeviceReport(id=name, kind=kind, name=f"Test {name}", **fields)


GOOD = Look([device()], {}, {})
BAD = Look([device(healthy=False, detail="broken memory", total=0, used=0)], {}, {})
GONE = Look([], {}, {})
SILENT = Look([], {"nvidia": "no answer"}, {})


def after(*looks: tuple[float, Look]) -> dict[str, Seen]:
    known: dict[str, Seen] = {}
    for at, look in looks:
        known = observe(known, look, at)
    return known


@pytest.mark.parametrize(
    ("looks", "healthy"),
    [
        ([(0, GOOD)], True),
        ([(0, BAD)], False),
        ([(0, BAD), (5, GOOD)], False),
        ([(0, BAD), (5, GOOD), (10, GOOD)], True),
        ([(0, GOOD), (5, GONE)], False),
        ([(0, GOOD), (5, BAD)], False),
        ([(0, GOOD), (5, GONE), (10, GOOD)], False),
        ([(0, GOOD), (5, GONE), (10, GOOD), (15, GOOD)], True),
        ([(0, GOOD), (5, GONE), (10, GOOD), (15, GONE), (20, GOOD)], False),
        ([(0, GOOD), (5, GONE), (10, GOOD), (10.1, GOOD), (10.2, GOOD)], False),
        ([(0, GOOD), (5, GONE), (10, GOOD), (10.6, GOOD), (11.1, GOOD)], True),
        ([(0, GOOD), (SILENCE_SECONDS - 0.1, SILENT)], True),
        ([(0, GOOD), (SILENCE_SECONDS, SILENT)], False),
        ([(0, GOOD), (5, SILENT), (10, GOOD)], True),
        ([(0, GOOD), (5, GONE), (10, SILENT)], False),
        ([(0, GOOD), (5, GONE), (6, SILENT), (10, GOOD)], False),
    ],
)
def test_health_follows_the_looks(looks: list[tuple[float, Look]], healthy: bool) -> None:
    """Bad at once, good after two looks in a row; a driver that hangs for a moment loses nothing."""
    assert after(*looks)["GPU-1"].report.healthy is healthy


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([(0, GOOD), (5, GONE)], "Test GPU-1 has vanished: see `nvidia-smi -L`"),
        ([(0, GOOD), (5, Look([], {}, {"nvidia": "reboot the host"}))], "Test GPU-1 has vanished: reboot the host"),
        ([(0, GOOD), (5, Look([], {}, {"amd": "reboot the host"}))], "has vanished: see"),
        ([(0, GOOD), (15, SILENT)], "Test GPU-1 has vanished: no answer"),
        (
            [(0, GOOD), (5, GONE), (9, GOOD)],
            "Test GPU-1 is back and is used again after 2 good looks in a row; 1 so far",
        ),
        ([(0, GOOD), (5, BAD)], "broken memory"),
        ([(0, GOOD), (5, GONE), (9, GOOD), (14, GOOD)], ""),
    ],
)
def test_the_detail_says_why(looks: list[tuple[float, Look]], said: str) -> None:
    """One sentence for a person, and none for a healthy device."""
    detail = after(*looks)["GPU-1"].report.detail
    assert detail.startswith(said) if said == "" else said in detail
    assert bool(detail) is bool(said)


@pytest.mark.parametrize("look", [GONE, BAD])
def test_a_lost_device_stays_listed_with_its_memory(look: Look) -> None:
    """The ledger still knows how large it was."""
    report = after((0, GOOD), (5, look))["GPU-1"].report
    assert (report.total, report.used) == (100, 10)


def test_others_are_not_touched() -> None:
    """One GPU that goes leaves its neighbour."""
    known = after(
        (0, Look([device(), device("GPU-2", index=1)], {}, {})), (5, Look([device("GPU-2", index=1)], {}, {}))
    )
    assert [(name, seen.report.healthy) for name, seen in known.items()] == [("GPU-1", False), ("GPU-2", True)]


def test_the_processor_never_vanishes() -> None:
    """A host too busy to answer still computes."""
    look = Look([device("cpu", kind="cpu")], {}, {})
    assert after((0, look), (3600, Look([], {"cpu": "no answer"}, {})))["cpu"].report.healthy


def test_a_gpu_that_is_divided_or_made_whole_is_not_lost() -> None:
    """The parent and its instances take each other's place in the list."""
    whole = Look([device()], {}, {})
    parts = Look([device(f"MIG-{n}", attributes={"parent": "GPU-1"}) for n in (1, 2)], {}, {})
    assert list(after((0, whole), (5, parts))) == ["MIG-1", "MIG-2"]
    assert list(after((0, parts), (5, whole))) == ["GPU-1"]


def test_a_device_is_forgotten_after_a_day() -> None:
    """What was taken out is not listed for ever."""
    assert list(after((0, GOOD), (FORGET_SECONDS - 1, GONE))) == ["GPU-1"]
    assert list(after((0, GOOD), (5, GONE), (FORGET_SECONDS, GONE))) == []


def test_devices_are_in_order_of_kind_and_index() -> None:
    """The processor comes last, wherever probes put it."""
    rows = [device("cpu", kind="cpu"), device("b", index=1), device("a", index=2), device("z", kind="amd")]
    assert list(after((0, Look(rows, {}, {})))) == ["z", "b", "a", "cpu"]
