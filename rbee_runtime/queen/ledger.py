"""Memory of each device as placement books it: what is promised to workers, what others take, what stays free. Pure.

free = total - headroom - foreign - reserved, and that is min(total - reserved - headroom, what the driver has free +
what leaves it): a worker counts with what it may take or with what it takes, whichever is more, from the moment in
which it is placed; what one that was released still holds does not count. Its hive starts nothing before that is back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rbee_runtime.protocol import DeviceReport
from rbee_runtime.queen.needs import places
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.situation import HiveView

MIB, GIB = 1024**2, 1024**3
HEADROOM_SHARE, HEADROOM_MOST = 0.05, 512 * MIB
"""Of each device, left free: engines take a little more than they were estimated for, and drivers fragment."""


@dataclass(frozen=True)
class Holder:
    """A worker on a device: the bytes that it may take there, and those that it was measured to take (0: not yet)."""

    worker: str
    need: int
    measured: int = 0

    @property
    def size(self) -> int:
        """Return what counts."""
        return max(self.need, self.measured)


@dataclass(frozen=True)
class Account:
    """One device, in bytes; `claimed` is kept for a worker for which room is being made.

    `headroom` stays free; `capacity` is what workers can have of it as long as others take what they take now,
    `reserved` what is promised, and `free` what one more worker can have: others may have taken what was promised.
    """

    device: DeviceReport
    holders: tuple[Holder, ...] = ()
    claimed: int = 0
    headroom: int = field(init=False)
    capacity: int = field(init=False)
    reserved: int = field(init=False)
    free: int = field(init=False)

    def __post_init__(self) -> None:
        """Work out what every plan asks for again and again."""
        total = self.device.total
        headroom = min(int(total * HEADROOM_SHARE), HEADROOM_MOST)
        capacity = max(0, total - headroom - self.device.foreign)
        reserved = sum(holder.size for holder in self.holders) + self.claimed
        found = {"headroom": headroom, "capacity": capacity, "reserved": reserved, "free": max(0, capacity - reserved)}
        self.__dict__.update(found)

    @property
    def id(self) -> str:
        """Return the device's id."""
        return self.device.id

    @property
    def measured(self) -> int:
        """Return what workers were seen to take."""
        return sum(holder.measured for holder in self.holders)

    @property
    def is_overbooked(self) -> bool:
        """Say whether more is promised than there is: needs turned out larger, or others took it."""
        return self.reserved > self.device.total - self.device.foreign

    def explain(self) -> str:
        """Return the numbers in a sentence's part."""
        return (
            f"{gib(self.free)} free on {self.id} (of {gib(self.device.total)}: {gib(self.reserved)} for other workers, "
            f"{gib(self.device.foreign)} used by others, {gib(self.headroom)} kept free)"
        )


def accounts(
    hive: HiveView, there: Iterable[tuple[Assignment, int]], claims: Mapping[str, int] | None = None
) -> dict[str, Account]:
    """Return the account of each of a hive's devices; `there` are its workers and the bytes that each needs."""
    holders: dict[str, list[Holder]] = {}
    for entry, need in there:
        seen = hive.memory.get(entry.id, {})
        for device in places(entry.spec):
            holders.setdefault(device, []).append(Holder(entry.id, need, seen.get(device, 0)))
    claimed = claims or {}
    return {
        device.id: Account(device, tuple(holders.get(device.id, ())), claimed.get(device.id, 0))
        for device in hive.devices
    }


def short(devices: Sequence[Account], need: int) -> dict[str, int]:
    """Return how many bytes are missing on each of these devices for a worker that needs so many on each."""
    return {account.id: need - account.free for account in devices if account.free < need}


def gib(size: int) -> str:
    """Return bytes for a person."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
