"""What was measured of a queen with a large fleet, as a table for people and one line of JSON; pure."""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum

from benchmarks.gateway.results import quantile

MOST_CORE, MOST_PLACEMENT_MS, MOST_RSS_MIB = 25.0, 5.0, 400.0
LEAST_PLACEMENTS = 20
"""Of fewer the slowest one of a hundred says nothing."""


_PLANNED = re.compile(r'event="load planned" .* ms=(\S+) processor_ms=(\S+) written_ms=(\S+)')


class Verdict(StrEnum):
    """What one run says of all goals."""

    MET = "met"
    NOT_MET = "not met"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Placement:
    """Seconds of one placement, in which a queen does nothing else: by the clock and of a processor; until written."""

    seconds: float
    processor: float
    written: float


@dataclass(frozen=True)
class Goal:
    """A figure (None: not measured) that is to be less than a limit."""

    name: str
    found: float | None
    limit: float

    @property
    def met(self) -> bool | None:
        """Say whether it is met, None if that is not known."""
        return None if self.found is None else self.found < self.limit

    def row(self) -> str:
        """Return a line of the table."""
        found = "-" if self.found is None else f"{self.found:.2f}"
        return f"{self.name:<52}{found:>10}{self.limit:>10g}"


@dataclass
class Found:
    """Everything that one run measured.

    `core_pct` is of one core in steady state and `rss_mib` the most then, of all processes of the queen; `placements`
    are those that the queen's log tells of, `answers` and `lists` seconds of requests to loaded models and for the list
    of all workers, `connections` those that hives opened meanwhile, `lost` how often one that was silent was back.
    """

    hives: int
    workers: int
    core_pct: float | None = None
    rss_mib: float | None = None
    join_s: float | None = None
    placements: list[Placement] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    lists: list[float] = field(default_factory=list)
    failed: int = 0
    connections: int = 0
    lost: int = 0
    load: float = 0.0

    @property
    def placement_p99_ms(self) -> float | None:
        """Return the milliseconds that 99 of 100 placements take at most."""
        return self._placement(0.99) if len(self.placements) >= LEAST_PLACEMENTS else None

    def _placement(self, share: float) -> float | None:
        return _ms([each.seconds for each in self.placements], share)

    def goals(self) -> list[Goal]:
        """Return what is to be met."""
        return [
            Goal("processor time of the queen, % of a core", self.core_pct, MOST_CORE),
            Goal("one placement, p99, ms", self.placement_p99_ms, MOST_PLACEMENT_MS),
            Goal("resident memory of the queen, MiB", self.rss_mib, MOST_RSS_MIB),
        ]

    @property
    def verdict(self) -> Verdict:
        """Return what this run says; a request that failed leaves it open what the others are worth."""
        met = [goal.met for goal in self.goals()]
        if False in met:
            return Verdict.NOT_MET
        return Verdict.UNDECIDED if None in met or self.failed else Verdict.MET

    def table(self) -> str:
        """Return the goals and what else was seen."""
        head = f"{f'{self.hives} hives, {self.workers} workers':<52}{'found':>10}{'limit':>10}"
        others = (
            ("from the first heartbeat to all workers ready, s", self.join_s),
            ("a placement, median, ms", self._placement(0.5)),
            ("a placement until it is on the disk, median, ms", _ms([each.written for each in self.placements], 0.5)),
            ("a placement until it is on the disk, p99, ms", _ms([each.written for each in self.placements])),
            ("a placement's processor time, median, ms", _ms([each.processor for each in self.placements], 0.5)),
            ("a placement's processor time, p99, ms", _ms([each.processor for each in self.placements])),
            ("an answer of a loaded model, p99, ms", _ms(self.answers)),
            ("the list of all workers, p99, ms", _ms(self.lists)),
            ("requests that failed", float(self.failed)),
            ("connections that hives opened meanwhile", float(self.connections)),
            ("times that a hive was silent and came back", float(self.lost)),
            ("processes that ran or waited on this machine before", self.load),
        )
        rows = [f"{name:<52}{'-' if value is None else f'{value:.2f}':>10}" for name, value in others]
        return "\n".join((head, *(goal.row() for goal in self.goals()), *rows, f"verdict: {self.verdict}"))

    def line(self) -> str:
        """Return the line of JSON."""
        return json.dumps(
            {
                "bench": "scale",
                "core_pct": _short(self.core_pct),
                "placement_p99_ms": _short(self.placement_p99_ms),
                "rss_mib": _short(self.rss_mib),
                "join_s": _short(self.join_s),
                "hives": self.hives,
                "workers": self.workers,
                "placements": len(self.placements),
                "answer_p99_ms": _short(_ms(self.answers)),
                "list_p99_ms": _short(_ms(self.lists)),
                "failed": self.failed,
                "placement_processor_p99_ms": _short(_ms([each.processor for each in self.placements])),
                "placement_written_p99_ms": _short(_ms([each.written for each in self.placements])),
                "connections": self.connections,
                "lost": self.lost,
                "load": _short(self.load),
                "verdict": self.verdict.value,
            }
        )


def placements_of(log: str) -> list[Placement]:
    """Return each placement that a queen's log tells of."""
    found = (_PLANNED.search(line) for line in log.splitlines())
    return [Placement(*(float(ms) / 1000 for ms in each.groups())) for each in found if each is not None]


def lost_of(log: str) -> int:
    """Return how often a hive came back, as a queen's log tells."""
    return log.count('event="hive heard"')


def _ms(seconds: list[float], share: float = 0.99) -> float | None:
    return 1000 * quantile(seconds, share) if seconds else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
