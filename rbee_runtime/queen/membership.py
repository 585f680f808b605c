"""Which hives are there: heartbeats by the queen's own clock, never by anybody's wall clock.

live     heard within 15 s
suspect  silent for 15 s: nothing new is placed there; its workers are probed directly and used while they answer
lost     silent for 60 s: its workers are replaced elsewhere where the model allows it
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

from rbee_runtime.protocol import Heartbeat
from rbee_runtime.queen.records import HiveRecord

SUSPECT_SECONDS = 15.0
LOST_SECONDS = 60.0
TOGETHER_SECONDS = 30.0
"""Hives that fell silent within this time of one another count as one event (a switch, the queen's own network)."""


class Presence(StrEnum):
    """How recently a hive was heard."""

    UNKNOWN = "unknown"
    LIVE = "live"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True)
class Member:
    """One hive. `heard` is the monotonic time of its last heartbeat, or of our start if there was none yet."""

    record: HiveRecord
    heard: float
    report: Heartbeat | None = None

    def presence(self, now: float) -> Presence:
        """Return its presence at `now`."""
        silence = now - self.heard
        if silence >= LOST_SECONDS:
            return Presence.LOST
        if self.report is None:
            return Presence.UNKNOWN
        return Presence.SUSPECT if silence >= SUSPECT_SECONDS else Presence.LIVE


@dataclass
class Membership:
    """Every hive that was heard, remembered or declared."""

    clock: Callable[[], float]
    members: dict[str, Member] = field(default_factory=dict)

    def restore(self, records: Iterable[HiveRecord]) -> None:
        """Start with what an earlier queen remembered; each hive gets the full time to speak up."""
        for record in records:
            self.members[record.name] = Member(record, self.clock())

    def hear(self, report: Heartbeat) -> bool:
        """Take a heartbeat; say whether the hive's remembered record changed by it."""
        known = self.members.get(report.hive) or Member(HiveRecord(report.hive), 0.0)
        record = known.record if known.record.url == report.url else replace(known.record, url=report.url)
        changed = report.hive not in self.members or record is not known.record
        self.members[report.hive] = Member(record, self.clock(), report)
        return changed

    def set_drained(self, name: str, *, drained: bool) -> HiveRecord:
        """Mark a hive as drained or not and return its new record."""
        member = self.members.get(name) or Member(HiveRecord(name), self.clock())
        record = replace(member.record, drained=drained)
        self.members[name] = replace(member, record=record)
        return record

    def presence(self, name: str) -> Presence:
        """Return a hive's presence now."""
        member = self.members.get(name)
        return Presence.UNKNOWN if member is None else member.presence(self.clock())

    def frozen(self, declared: Collection[str]) -> bool:
        """Say whether so many declared hives fell silent together that the fault is likely ours: nothing is moved."""
        now = self.clock()
        there = [member for name, member in self.members.items() if name in declared]
        silent = sorted(m.heard for m in there if m.presence(now) in (Presence.SUSPECT, Presence.LOST))
        together = largest_group(silent)
        return together >= 2 and 3 * together > len(there)


def largest_group(moments: list[float]) -> int:
    """Return the size of the largest chain of sorted moments with at most 30 s between neighbours."""
    largest = size = min(len(moments), 1)
    for before, after in pairwise(moments):
        size = size + 1 if after - before <= TOGETHER_SECONDS else 1
        largest = max(largest, size)
    return largest
