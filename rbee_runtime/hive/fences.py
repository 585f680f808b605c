"""Which devices nothing may be started on: the ones that scans miss, and the ones that a worker found broken."""

from collections.abc import Iterable, Mapping

from rbee_runtime.devices import Scan
from rbee_runtime.hive.ledger import CPU, places
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.states import ExitReason


def lost(scan: Scan | None, devices: Iterable[str]) -> dict[str, str]:
    """Return why each of these devices cannot be used, by id.

    The processor is never lost: a scan that fails on a busy host says nothing about it. Nor is a device that is not
    seen because its probe failed; what runs there goes on.
    """
    if scan is None:
        return {}
    seen = {device.id: device for device in scan.devices}
    found = {device: _why(device, seen, scan) for device in {*devices, *seen} if device != CPU}
    return {device: said for device, said in found.items() if said}


def unjudged(scan: Scan | None, devices: Iterable[str]) -> dict[str, str]:
    """Return why it is not known whether these devices can be used, by id: no look has seen them, and looks fail."""
    said = "; ".join(problems(scan))
    seen = {device.id for device in scan.devices} if scan is not None else set()
    return {device: said for device in devices if said and device != CPU and device not in seen}


def problems(scan: Scan | None) -> tuple[str, ...]:
    """Return what looks at the devices complain of."""
    return tuple(dict.fromkeys(said for _, said in scan.problems)) if scan is not None else ()


def faults(records: Mapping[str, WorkerRecord]) -> dict[str, tuple[str, ...]]:
    """Return the workers that found a device broken, by device, until one of them is ready there again.

    The processor is none of them: whatever a worker says, a host without one would not say anything.
    """
    found: dict[str, tuple[str, ...]] = {}
    for worker, record in sorted(records.items()):
        if record.last_exit is ExitReason.DEVICE_LOST and record.ready_since is None:
            for device in (each for each in places(record.devices) if each != CPU):
                found[device] = (*found.get(device, ()), worker)
    return found


def _why(device: str, seen: Mapping[str, DeviceReport], scan: Scan) -> str:
    report = seen.get(device)
    if report is not None:
        return "" if report.healthy else report.detail or "it is not healthy"
    if scan.problems or not scan.devices:
        return ""
    return f"this host has no such device now, it has {', '.join(sorted(seen))}"
