"""AMD GPUs by the kernel's files (amdgpu, kfd); AMD's own library adds what it knows when it is installed.

The id is the chip's number (`unique_id`, 16 hexadecimal digits) or, on cards that have none, the PCI address; it is
the same with and without the library. Cards with less memory than MIN_MEMORY are display adapters and not offered.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rbee_runtime.devices import amd_library, drm
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.devices.tree import HostTree, Tree, number, pairs
from rbee_runtime.protocol import DeviceReport

KIND = "amd"
VENDOR = 0x1002

MIN_MEMORY = 2 * 1024**3
"""Processors with graphics reserve 512 MiB for them by default; a model does not fit there."""

_KFD = "/sys/class/kfd/kfd"
_UNCORRECTED = re.compile(r"\bue:\s*(\d+)")


@dataclass(frozen=True)
class Compute:
    """What kfd says of one card: its nodes' ids (several when the card is partitioned) and the properties."""

    ids: tuple[int, ...] = ()
    properties: Mapping[str, int] = field(default_factory=dict)


class AmdProbe:
    """Reads the AMD GPUs of a host."""

    kind = KIND

    def __init__(
        self, tree: Tree | None = None, *, library: Callable[[], Mapping[str, amd_library.Facts]] | None = None
    ) -> None:
        self._tree = tree or HostTree()
        self._library = library or (amd_library.read if tree is None else dict)

    def read(self, workers: Workers) -> Reading:  # noqa: ARG002 - kfd names all processes
        """Return the GPUs now."""
        cards = list(drm.cards(self._tree, VENDOR))
        if not cards:
            return Reading(absent=True)
        computes = _computes(self._tree)
        known = self._library()
        devices: list[DeviceReport] = []
        processes: dict[str, dict[int, int | None]] = {}
        problems: list[str] = []
        for card in cards:
            compute, facts = computes.get(card.pci, Compute()), known.get(card.pci, amd_library.Facts())
            total = facts.total or number(self._tree, f"{card.device}/mem_info_vram_total")
            if total is None:
                problems.append(_unreadable(card))
            elif total >= MIN_MEMORY:
                device = _device(self._tree, card, compute, facts, total)
                devices.append(device)
                taken = facts.processes if facts.processes is not None else _processes(self._tree, compute)
                processes[device.id] = dict(taken)
        problems += [device.detail for device in devices if device.detail]
        return Reading(tuple(devices), processes, tuple(problems))


def _device(tree: Tree, card: drm.Card, compute: Compute, facts: amd_library.Facts, total: int) -> DeviceReport:
    used = number(tree, f"{card.device}/mem_info_vram_used") or facts.used or 0
    errors = facts.uncorrected if facts.uncorrected is not None else _uncorrected(tree, card)
    name = facts.name or tree.text(f"{card.device}/product_name") or f"AMD GPU {_device_id(tree, card)}"
    trouble = ""
    if errors:
        trouble = f"{name} at {card.pci} has had {errors} uncorrectable memory errors; drain it and reboot the host"
    return DeviceReport(
        id=_identity(tree, card),
        kind=KIND,
        name=name,
        total=total,
        used=used,
        foreign=used,
        index=card.index,
        healthy=not trouble,
        detail=trouble,
        attributes=_attributes(tree, card, compute, facts),
    )


def _attributes(tree: Tree, card: drm.Card, compute: Compute, facts: amd_library.Facts) -> dict[str, str]:
    properties = compute.properties
    simd, per_unit = properties.get("simd_count", 0), properties.get("simd_per_cu", 0)
    said = {
        "driver": facts.driver or tree.text("/sys/module/amdgpu/version") or card.driver,
        "arch": gfx(properties.get("gfx_target_version", 0)),
        "compute_units": str(simd // per_unit) if per_unit else "",
        "pci": card.pci,
        "product_number": tree.text(f"{card.device}/product_number") or "",
        "partition": tree.text(f"{card.device}/current_compute_partition") or "",
        "utilisation": drm.scaled(number(tree, f"{card.device}/gpu_busy_percent"), 100),
        "gtt": tree.text(f"{card.device}/mem_info_gtt_total") or "",
        "compute": "" if compute.ids else "no kfd node: ROCm cannot use it, Vulkan may",
    } | drm.sensors(tree, card)
    return {name: value for name, value in said.items() if value}


def gfx(version: int) -> str:
    """Return `gfx90a` of kfd's 90010: major, minor and stepping as two decimal digits each, the last two in hex."""
    if not version:
        return ""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _identity(tree: Tree, card: drm.Card) -> str:
    text = (tree.text(f"{card.device}/unique_id") or "").removeprefix("0x").lower()
    return text.rjust(16, "0") if text.strip("0") else card.pci


def _device_id(tree: Tree, card: drm.Card) -> str:
    return tree.text(f"{card.device}/device") or card.pci


def _uncorrected(tree: Tree, card: drm.Card) -> int:
    found = _UNCORRECTED.search(tree.text(f"{card.device}/ras/umc_err_count") or "")
    return int(found[1]) if found else 0


def _computes(tree: Tree) -> dict[str, Compute]:
    """Return kfd's nodes by PCI address."""
    found: dict[str, Compute] = {}
    for node in tree.names(f"{_KFD}/topology/nodes"):
        at = f"{_KFD}/topology/nodes/{node}"
        gpu_id = number(tree, f"{at}/gpu_id")
        if gpu_id:
            properties = _numbers(tree.text(f"{at}/properties") or "")
            pci = _pci(properties)
            before = found.get(pci, Compute())
            found[pci] = Compute((*before.ids, gpu_id), properties)
    return found


def _numbers(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in pairs(text).items() if value.isdigit()}


def _pci(properties: Mapping[str, int]) -> str:
    """Return the PCI address of a node: `location_id` is bus (8 bits), slot (5) and function (3)."""
    place = properties.get("location_id", 0)
    return f"{properties.get('domain', 0):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"


def _processes(tree: Tree, compute: Compute) -> dict[int, int | None]:
    found: dict[int, int | None] = {}
    for name in tree.names(f"{_KFD}/proc"):
        sizes = [number(tree, f"{_KFD}/proc/{name}/vram_{gpu_id}") for gpu_id in compute.ids]
        known = [size for size in sizes if size is not None]
        if name.isdigit() and any(known):
            found[int(name)] = sum(known)
    return found


def _unreadable(card: drm.Card) -> str:
    if card.driver != "amdgpu":
        loaded = f"the driver {card.driver}" if card.driver else "no driver"
        return f"the AMD GPU at {card.pci} has {loaded}; load amdgpu (`modprobe amdgpu`) to compute on it"
    return f"the AMD GPU at {card.pci} does not say its memory; see `journalctl -k | grep -i amdgpu`"
