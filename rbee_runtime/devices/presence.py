"""When a device counts as usable; pure: what is known now from what was known and what was just seen.

A device that vanishes or turns bad is unhealthy at once and stays listed. It is healthy again after good looks in a
row. A kind whose driver does not answer at all keeps its last word for some seconds, because a busy driver is no
lost one. The processor cannot vanish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from rbee_runtime.protocol import DeviceReport

GOOD_LOOKS = 2
"""A device that was bad is used again after so many good looks in a row, so that a loose one does not flap."""

LOOK_SECONDS = 1.0
"""Looks closer together than this count as one: a person who reloads a page does not heal a device."""

SILENCE_SECONDS = 10.0
"""A driver that hangs for so long has lost its devices; one late answer has not."""

FORGET_SECONDS = 24 * 3600.0
"""A device that was gone for a day was taken out."""

_LOOK_HERE = {
    "nvidia": "see `nvidia-smi -L`, and `journalctl -k | grep -i xid` for the cause",
    "amd": "see `journalctl -k | grep -i amdgpu` for the cause",
    "intel": "see `journalctl -k | grep -iE 'xe|i915'` for the cause",
}


@dataclass(frozen=True)
class Seen:
    """One device: its latest report, and how far it is trusted. Times are of the injected clock, in seconds."""

    report: DeviceReport
    last_good: float
    trusted: bool = True
    good_looks: int = GOOD_LOOKS
    counted: float = 0.0


@dataclass(frozen=True)
class Look:
    """One round of probes; `silent` says by kind why a probe gave no answer, `problems` what others complained of."""

    devices: Sequence[DeviceReport]
    silent: Mapping[str, str]
    problems: Mapping[str, str]


def observe(known: Mapping[str, Seen], look: Look, now: float) -> dict[str, Seen]:
    """Return all devices after a look, by id, those seen first first."""
    there = {device.id: device for device in look.devices}
    after: dict[str, Seen] = {}
    for name, seen in known.items():
        if name in there:
            after[name] = _present(seen, there[name], now)
        elif not _replaced(seen.report, there) and now - seen.last_good < FORGET_SECONDS:
            after[name] = _missing(seen, look, now)
    for name in there.keys() - known.keys():
        healthy = there[name].healthy
        after[name] = Seen(there[name], now, trusted=healthy, good_looks=GOOD_LOOKS if healthy else 0, counted=now)
    return dict(sorted(after.items(), key=lambda item: _rank(item[1].report)))


def _present(seen: Seen, report: DeviceReport, now: float) -> Seen:
    if not report.healthy:
        total, used = (report.total, report.used) if report.total else (seen.report.total, seen.report.used)
        kept = msgspec.structs.replace(report, total=total, used=used)
        return Seen(kept, seen.last_good, trusted=False, good_looks=0, counted=now)
    if seen.trusted:
        return Seen(report, now, counted=now)
    counts = seen.good_looks == 0 or now - seen.counted >= LOOK_SECONDS
    looks = seen.good_looks + 1 if counts else seen.good_looks
    if looks >= GOOD_LOOKS:
        return Seen(report, now, counted=now)
    detail = f"{report.name} is back and is used again after {GOOD_LOOKS} good looks in a row; {looks} so far"
    waiting = msgspec.structs.replace(report, healthy=False, detail=detail)
    return Seen(waiting, now, trusted=False, good_looks=looks, counted=now if counts else seen.counted)


def _missing(seen: Seen, look: Look, now: float) -> Seen:
    kind = seen.report.kind
    silence = look.silent.get(kind)
    if silence is not None and (kind == "cpu" or now - seen.last_good < SILENCE_SECONDS):
        return seen
    said = silence or look.problems.get(kind) or _LOOK_HERE.get(kind, "see `journalctl -k` for the cause")
    detail = f"{seen.report.name} has vanished: {said}"
    report = msgspec.structs.replace(seen.report, healthy=False, detail=detail, processes=())
    return replace(seen, report=report, trusted=False, good_looks=0, counted=now)


def _replaced(gone: DeviceReport, there: Mapping[str, DeviceReport]) -> bool:
    """Return whether a GPU was split in MIG instances, or is whole again; nothing was lost then."""
    return gone.attributes.get("parent") in there or any(
        device.attributes.get("parent") == gone.id for device in there.values()
    )


def _rank(report: DeviceReport) -> tuple[bool, str, int, str]:
    return report.kind == "cpu", report.kind, report.index, report.id
