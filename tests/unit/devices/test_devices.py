"""Device probes: the processor, and how probes fail alone."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rbee_runtime.devices import Inventory
from rbee_runtime.devices.cpu import CpuProbe, _processor, baseline, own_memory
from rbee_runtime.protocol import DeviceReport

V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "machine", "level"),
    [
        ("", "x86_64", "x86-64"),
        (V2, "x86_64", "x86-64-v2"),
        (V3, "x86_64", "x86-64-v3"),
        (V4, "x86_64", "x86-64-v4"),
        (V4.replace("ssse3", ""), "x86_64", "x86-64"),
        (V3.replace("fma", ""), "x86_64", "x86-64-v2"),
        ("neon", "aarch64", "aarch64"),
    ],
)
def test_the_baseline_is_the_highest_level_without_a_gap(flags: str, machine: str, level: str) -> None:
    """A level counts only with all of its flags and all levels below."""
    assert baseline(frozenset(flags.split()), machine) == level


def test_this_machine_is_one_cpu_device() -> None:
    """Total, used and foreign memory are in order, and our own memory is not foreign."""
    (alone,) = CpuProbe().read([])
    (ours,) = CpuProbe().read([os.getpid()])
    assert (alone.id, alone.kind) == ("cpu", "cpu")
    assert 0 < alone.foreign <= alone.used <= alone.total
    assert own_memory(os.getpid()) > 0
    assert ours.foreign <= ours.used - own_memory(os.getpid()) // 2
    assert int(alone.attributes["cores"]) >= 1


def test_a_process_that_is_gone_uses_nothing() -> None:
    """A worker that ended between two looks is no error."""
    assert own_memory(2**22 - 1) == 0


def test_a_processor_without_x86_names_is_named_by_what_there_is(tmp_path: Path) -> None:
    """Other architectures call the fields differently."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n\nModel\t\t: Board 5\n")
    assert _processor(tmp_path / "cpuinfo") == ("Board 5", frozenset())


class Probe:
    def __init__(self, kind: str, *, fail: bool = False, release: threading.Event | None = None) -> None:
        self.kind = kind
        self.calls = 0
        self._fail = fail
        self._release = release

    def read(self, workers: Sequence[int]) -> list[DeviceReport]:
        self.calls += 1
        if self._release is not None:
            self._release.wait(10)
        if self._fail:
            raise OSError("driver gone")
        return [DeviceReport(id=self.kind, kind=self.kind, name=self.kind, total=1, used=0)]


async def test_a_failing_probe_fails_alone() -> None:
    """The others' devices are there, and the failure is one sentence."""
    scan = await Inventory([Probe("a", fail=True), Probe("b")]).scan()
    assert [device.id for device in scan.devices] == ["b"]
    assert scan.problems == (("a", "the a devices cannot be read: driver gone"),)


async def test_a_hanging_probe_is_not_waited_for_nor_asked_twice() -> None:
    """A scan ends at its deadline, later scans do not pile up threads, and the late answer is used."""
    release = threading.Event()
    hanging = Probe("a", release=release)
    inventory = Inventory([hanging, Probe("b")], deadline=0.2)
    started = time.monotonic()
    scans = [await inventory.scan() for _ in range(2)]
    elapsed = time.monotonic() - started
    release.set()
    after = await inventory.scan()
    assert elapsed < 2
    assert [len(scan.devices) for scan in (*scans, after)] == [1, 1, 2]
    assert hanging.calls == 1
