"""Intel's discrete GPUs by the kernel's files (xe, i915).

Integrated graphics have no memory of their own and are not offered. What the kernel does not publish is said in the
attributes: `memory_source` is `driver` or `board` (the board's data sheet), and `used` counts our own processes only
(`memory_used: own processes`) unless the driver has a free count.
"""

from collections.abc import Iterator

from rbee_runtime.devices import drm
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.devices.tree import HostTree, Tree, number, pairs
from rbee_runtime.protocol import DeviceReport

KIND = "intel"
VENDOR = 0x8086

_GIB = 1024**3
_BOARDS = {
    0x56A0: ("Intel Arc A770", (8, 16)),
    0x56A1: ("Intel Arc A750", (8,)),
    0x56A2: ("Intel Arc A580", (8,)),
    0x56A5: ("Intel Arc A380", (6,)),
    0x56A6: ("Intel Arc A310", (4,)),
    0x56C0: ("Intel Data Center GPU Flex 170", (16,)),
    0x56C1: ("Intel Data Center GPU Flex 140", (6,)),
    0xE20B: ("Intel Arc B580", (12,)),
    0xE20C: ("Intel Arc B570", (10,)),
    0xE211: ("Intel Arc Pro B60", (24,)),
    0xE212: ("Intel Arc Pro B50", (16,)),
}
"""Name and the sizes in GiB that are sold under a PCI id (Intel's product pages; Flex 140 is two GPUs of 6)."""

_LOCAL_BAR = 2
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


class IntelProbe:
    """Reads the Intel GPUs of a host."""

    kind = KIND

    def __init__(self, tree: Tree | None = None) -> None:
        self._tree = tree or HostTree()

    def read(self, workers: Workers) -> Reading:
        """Return the GPUs with memory of their own now."""
        cards = [card for card in drm.cards(self._tree, VENDOR) if _discrete(self._tree, card)]
        if not cards:
            return Reading(absent=True)
        taken = _taken(self._tree, frozenset().union(*workers.values()))
        devices: list[DeviceReport] = []
        processes: dict[str, dict[int, int | None]] = {}
        problems: list[str] = []
        for card in cards:
            device = _device(self._tree, card, taken.get(card.pci, {}))
            if isinstance(device, str):
                problems.append(device)
            else:
                devices.append(device)
                processes[device.id] = dict(taken.get(card.pci, {}))
        return Reading(tuple(devices), processes, tuple(problems))


def _device(tree: Tree, card: drm.Card, taken: dict[int, int]) -> DeviceReport | str:
    model = number(tree, f"{card.device}/device") or 0
    name, _ = _BOARDS.get(model, (f"Intel GPU {model:#06x}", ()))
    total, source = _total(tree, card, model)
    if total is None:
        fix = "update the kernel" if card.driver == "xe" else "bind it to the xe driver"
        return (
            f"the {name} at {card.pci} is not used: neither its driver ({card.driver or 'none'}) nor the list of boards"
            f" says how much memory it has; {fix}, so that {card.device}/tile0/physical_vram_size_bytes is there"
        )
    free = number(tree, f"{card.path}/lmem_avail_bytes")
    used = sum(taken.values()) if free is None else max(0, total - free)
    said = {
        "driver": card.driver,
        "pci": card.pci,
        "memory_source": source,
        "memory_used": "own processes" if free is None else "",
    } | drm.sensors(tree, card)
    return DeviceReport(
        id=card.pci,
        kind=KIND,
        name=name,
        total=total,
        used=min(used, total),
        foreign=min(used, total),
        index=card.index,
        attributes={key: value for key, value in said.items() if value},
    )


def _discrete(tree: Tree, card: drm.Card) -> bool:
    """Return whether a card has memory of its own: integrated graphics sit on the first bus, as in guests all may."""
    first_bus = card.pci.split(":")[1] == "00"
    return not first_bus or number(tree, f"{card.device}/device") in _BOARDS or _published(tree, card) is not None


def _total(tree: Tree, card: drm.Card, model: int) -> tuple[int | None, str]:
    published = _published(tree, card)
    if published:
        return published, "driver"
    _, sizes = _BOARDS.get(model, ("", ()))
    if not sizes:
        return None, ""
    # The window is as large as the memory, up to the next power of two, or 256 MiB without resizable BAR.
    window = _window(tree, card)
    fitting = [size for size in sizes if size * _GIB <= window]
    return (fitting or list(sizes[:1]))[-1] * _GIB, "board"


def _published(tree: Tree, card: drm.Card) -> int | None:
    """Return bytes as xe says by tile, or as Intel's own builds of i915 say by card; the kernel's i915 has neither."""
    tiles = [name for name in tree.names(card.device) if name[:4] == "tile" and name[4:].isdigit()]
    sizes = [number(tree, f"{card.device}/{tile}/physical_vram_size_bytes") for tile in tiles]
    known = [size for size in sizes if size]
    return sum(known) if known else number(tree, f"{card.path}/lmem_total_bytes")


def _window(tree: Tree, card: drm.Card) -> int:
    rows = (tree.text(f"{card.device}/resource") or "").splitlines()
    if len(rows) <= _LOCAL_BAR:
        return 0
    first, last, *_ = (int(field, 16) for field in rows[_LOCAL_BAR].split())
    return last - first + 1 if last else 0


def _taken(tree: Tree, pids: frozenset[int]) -> dict[str, dict[int, int]]:
    """Return the local memory of processes by pid by PCI address; of those only that this user may look into."""
    found: dict[str, dict[int, int]] = {}
    for pid in pids:
        # Every file that a process has open on a card is listed; those of one client say the same.
        clients = {(card, client): size for card, client, size in _clients(tree, pid)}
        for (card, _), size in clients.items():
            by_pid = found.setdefault(card, {})
            by_pid[pid] = by_pid.get(pid, 0) + size
    return found


def _clients(tree: Tree, pid: int) -> Iterator[tuple[str, str, int]]:
    for name in tree.names(f"/proc/{pid}/fdinfo"):
        fields = pairs(tree.text(f"/proc/{pid}/fdinfo/{name}") or "", ":")
        if fields.get("drm-driver") in {"xe", "i915"}:
            local = [
                value for key, value in fields.items() if key.startswith(("drm-resident-vram", "drm-resident-local"))
            ]
            yield fields.get("drm-pdev", ""), fields.get("drm-client-id", ""), sum(_size(value) for value in local)


def _size(text: str) -> int:
    amount, unit = (*text.split(), "", "")[:2]
    return int(amount) * _UNITS.get(unit, 1) if amount.isdigit() else 0
