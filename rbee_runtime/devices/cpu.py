"""The processor and main memory as one device, id `cpu`."""

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil

from rbee_runtime.protocol import DeviceReport

DEVICE_ID = "cpu"

_CPUINFO = Path("/proc/cpuinfo")
_PROC = Path("/proc")

# The x86-64 psABI's micro-architecture levels, by the flag names of Linux; each level includes the ones before it.
_LEVELS = {
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}


class CpuProbe:
    """Reads the processor and the memory."""

    kind = "cpu"

    def read(self, workers: Sequence[int]) -> list[DeviceReport]:
        """Return the one device; `used` is what cannot be given to a new process."""
        memory = psutil.virtual_memory()
        used = memory.total - memory.available
        ours = sum(own_memory(pid) for pid in workers)
        name, flags = _processor(_CPUINFO)
        return [
            DeviceReport(
                id=DEVICE_ID,
                kind=self.kind,
                name=name,
                total=memory.total,
                used=used,
                foreign=max(0, used - ours),
                attributes={
                    "arch": platform.machine(),
                    "baseline": baseline(flags, platform.machine()),
                    "cores": str(psutil.cpu_count(logical=False) or psutil.cpu_count() or 1),
                    "threads": str(psutil.cpu_count() or 1),
                },
            )
        ]


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


def own_memory(pid: int) -> int:
    """Return bytes that end with a process (RssAnon); mapped model files are page cache and count as available."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    value = next((line.split()[1] for line in lines if line.startswith("RssAnon:")), "0")
    return int(value) * 1024


@cache
def _processor(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("Model") or platform.machine()
    return name, frozenset(fields.get("flags", "").split())
