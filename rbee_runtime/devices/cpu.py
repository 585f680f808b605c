"""The processor and main memory as one device, id `cpu`."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from rbee_runtime.devices import cgroups
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.devices.tree import HostTree, Tree, pairs
from rbee_runtime.protocol import DeviceReport

DEVICE_ID = "cpu"

# The x86-64 psABI's micro-architecture levels, by the flag names of Linux; each level includes the ones before it.
_LEVELS = {
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}

# What engines build separate kernels for, by Linux's names (x86 and Arm).
_FEATURES = frozenset(
    (
        *("avx", "avx2", "avx_vnni", "f16c", "fma"),
        *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
        *("asimd", "asimddp", "asimdhp", "bf16", "fphp", "i8mm", "sve", "sve2", "sme"),
    )
)


@dataclass(frozen=True)
class Processor:
    """What does not change while the host is up."""

    name: str
    flags: frozenset[str]
    cores: int
    threads: int
    nodes: int


class CpuProbe:
    """Reads the processor and the memory."""

    kind = "cpu"

    def __init__(self, tree: Tree | None = None, *, machine: str = "") -> None:
        self._tree = tree or HostTree()
        self._own = tree is None
        self._machine = machine or platform.machine()
        self._processor: Processor | None = None

    def read(self, workers: Workers) -> Reading:
        """Return the one device; `used` is what cannot be given to a new process, `total` what limits leave of it."""
        if self._processor is None:
            self._processor = processor(self._tree)
        limits = cgroups.limits(self._tree)
        installed, available = self._memory()
        total = min(installed, limits.memory or installed)
        free = min(available, total, available if limits.free is None else limits.free)
        device = DeviceReport(
            id=DEVICE_ID,
            kind=self.kind,
            name=self._processor.name or self._machine,
            total=total,
            used=total - free,
            foreign=total - free,
            attributes=self._attributes(self._processor, limits, installed),
        )
        taken = [own_memory(pids, self._tree) for pids in workers.values()]
        return Reading((device,), {DEVICE_ID: {pid: size for family in taken for pid, size in family.items()}})

    def _memory(self) -> tuple[int, int]:
        """Return installed and available bytes."""
        fields = pairs(self._tree.text("/proc/meminfo") or "", ":")
        if "MemAvailable" in fields:
            return _kibibytes(fields["MemTotal"]), _kibibytes(fields["MemAvailable"])
        memory = psutil.virtual_memory()
        return memory.total, memory.available

    def _attributes(self, found: Processor, limits: cgroups.Limits, installed: int) -> dict[str, str]:
        usable = float(found.threads)
        if self._own and hasattr(os, "sched_getaffinity"):
            usable = len(os.sched_getaffinity(0))
        usable = min(usable, usable if limits.cpus is None else limits.cpus)
        said = {
            "arch": self._machine,
            "baseline": baseline(found.flags, self._machine),
            "cores": str(found.cores),
            "threads": str(found.threads),
            "usable_cpus": f"{usable:g}",
            "numa_nodes": str(found.nodes),
            "features": " ".join(sorted(found.flags & _FEATURES)),
        }
        if limits.memory is not None and limits.memory < installed:
            said |= {"memory_limit": str(limits.memory), "memory_installed": str(installed)}
        return said


def baseline(flags: frozenset[str], machine: str) -> str:
    """Return the highest x86-64 level whose flags are all there, or the machine's name on other architectures."""
    if machine != "x86_64":
        return machine
    reached = "x86-64"
    for level, needed in _LEVELS.items():
        if not flags.issuperset(needed.split()):
            break
        reached = level
    return reached


def own_memory(pids: Iterable[int], tree: Tree | None = None) -> dict[int, int]:
    """Return bytes by pid that end with a worker's processes; those that are gone are left out.

    Mapped model files are page cache and count as available. Shared memory is the same for all processes of an
    engine, so only the one that maps most of it is charged for it.
    """
    where = tree or HostTree()
    found: dict[int, int] = {}
    shared: dict[int, int] = {}
    for pid in pids:
        status = pairs(where.text(f"/proc/{pid}/status") or "", ":")
        if "RssAnon" in status:
            found[pid] = _kibibytes(status["RssAnon"])
            shared[pid] = _kibibytes(status.get("RssShmem", "0"))
    if shared:
        most = max(shared, key=lambda pid: shared[pid])
        found[most] += shared[most]
    return found


def processor(tree: Tree) -> Processor:
    """Return the processor of /proc/cpuinfo; other architectures than x86 call the fields differently."""
    text = tree.text("/proc/cpuinfo") or ""
    blocks = [pairs(block, ":") for block in text.split("\n\n") if block.strip()]
    threads = [block for block in blocks if "processor" in block]
    merged = {name: value for block in reversed(blocks) for name, value in block.items()}
    cores = {(block["physical id"], block["core id"]) for block in threads if "core id" in block}
    return Processor(
        name=merged.get("model name") or merged.get("Model") or "",
        flags=frozenset((merged.get("flags") or merged.get("Features") or "").split()),
        cores=len(cores) or len(threads) or psutil.cpu_count() or 1,
        threads=len(threads) or psutil.cpu_count() or 1,
        nodes=_count(tree.text("/sys/devices/system/node/online") or "0"),
    )


def _count(ranges: str) -> int:
    """Return how many numbers are in a list like `0-3,8`."""
    ends = [part.partition("-") for part in ranges.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def _kibibytes(text: str) -> int:
    """Return the bytes of `123 kB`, as the kernel writes KiB."""
    return int(text.split(maxsplit=1)[0]) * 1024
