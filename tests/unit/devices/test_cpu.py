"""The processor and main memory, and what control groups leave of them."""

import os

import pytest

from rbee_runtime.devices.cgroups import Limits, limits
from rbee_runtime.devices.cpu import CpuProbe, baseline, own_memory
from rbee_runtime.devices.tree import RecordedTree
from tests.unit.devices.recordings import played

GIB = 1024**3
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
    """Total and used memory are in order, and our own memory is among the processes'."""
    me = os.getpid()
    reading = CpuProbe().read({me: frozenset((me,))})
    (device,) = reading.devices
    assert (device.id, device.kind, device.healthy) == ("cpu", "cpu", True)
    assert 0 < device.used <= device.total
    assert 0 < (reading.processes["cpu"][me] or 0) < device.total
    assert 1 <= int(device.attributes["cores"]) <= int(device.attributes["threads"])
    assert 0 < float(device.attributes["usable_cpus"]) <= int(device.attributes["threads"])


def test_a_process_that_is_gone_uses_nothing() -> None:
    """A worker that ended between two looks is no error."""
    assert own_memory([2**22 - 1]) == {}


def test_memory_that_an_engines_processes_share_counts_once() -> None:
    """Private memory adds up; what all map is charged to the one that maps most."""
    sizes = {1: (100, 50), 2: (200, 900), 3: (300, 900)}
    texts = {f"/proc/{pid}/status": f"RssAnon: {anon} kB\nRssShmem: {shm} kB" for pid, (anon, shm) in sizes.items()}
    found = own_memory(sizes, RecordedTree(texts, {}))
    assert sum(found.values()) == (100 + 200 + 300 + 900) * 1024


@pytest.mark.parametrize(
    ("name", "total", "used", "attributes"),
    [
        (
            "synthetic_limited_cpu",
            32 * GIB,
            4 * GIB,
            {"cores": "4", "threads": "8", "usable_cpus": "3.5", "numa_nodes": "2", "memory_installed": str(64 * GIB)},
        ),
        (
            "synthetic_limited_cpu_v1",
            4 * GIB,
            1 * GIB,
            {"threads": "2", "usable_cpus": "1.5", "features": "asimd asimddp bf16 i8mm", "memory_limit": str(4 * GIB)},
        ),
    ],
)
def test_limits_of_control_groups_bound_the_device(
    name: str, total: int, used: int, attributes: dict[str, str]
) -> None:
    """Memory is the tightest limit on the path, page cache is not used memory, processors are the quota."""
    (device,) = played(name).devices
    assert (device.total, device.used) == (total, used)
    assert attributes.items() <= device.attributes.items()


def test_features_are_what_engines_build_for() -> None:
    """AVX-VNNI is told, flags without kernels are not."""
    assert played("synthetic_limited_cpu").devices[0].attributes["features"] == "avx avx2 avx_vnni f16c fma"


MOUNT = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Limits()),
        ({"/proc/self/cgroup": "0::/a", f"{MOUNT}/a/memory.max": "max", f"{MOUNT}/a/cpu.max": "max 100000"}, Limits()),
        ({"/proc/self/cgroup": "0::/", f"{MOUNT}/memory.max": "100", f"{MOUNT}/memory.current": "30"}, Limits(100, 70)),
        ({"/proc/self/cgroup": "9:memory:/", f"{MOUNT}/memory/memory.limit_in_bytes": str(2**63 - 4096)}, Limits()),
        ({"/proc/self/cgroup": "0::/a", f"{MOUNT}/a/cpu.max": "50000"}, Limits(cpus=0.5)),
        ({"/proc/self/cgroup": "0::/../x", f"{MOUNT}/memory.max": "100"}, Limits(100, 100)),
        (
            {
                "/proc/self/cgroup": "0::/a/b",
                f"{MOUNT}/a/memory.max": "100",
                f"{MOUNT}/a/memory.current": "90",
                f"{MOUNT}/a/b/memory.max": "50",
                f"{MOUNT}/a/b/memory.current": "10",
            },
            Limits(50, 10),
        ),
        ({"/proc/self/cgroup": "nonsense\n\n0::/a", f"{MOUNT}/a/memory.max": "1"}, Limits(1, 1)),
    ],
)
def test_limits_are_the_tightest_on_the_path(files: dict[str, str], expected: Limits) -> None:
    """The group itself and all above it count; free is what the fullest one leaves."""
    assert limits(RecordedTree(files, {})) == expected


def test_a_host_without_proc_is_still_one_device() -> None:
    """Where the kernel has no such files the device has what the system's library says."""
    (device,) = CpuProbe(RecordedTree({}, {}), machine="arm64").read({}).devices
    assert (device.name, device.attributes["baseline"]) == ("arm64", "arm64")
    assert 0 < device.used < device.total
