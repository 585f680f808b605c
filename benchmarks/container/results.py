"""What was measured, as a table for people and one line of JSON; pure.

Speeds are compared within a round, where the machine was in the same mood, and the median of all rounds counts. What
that comparison is worth is what it finds where there is nothing to find: between two bare workers.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LEAST_RATIO = 0.99
MOST_SPREAD = 0.01
"""Two bare workers that differ by more say that a difference as large as the goal allows could not be seen."""


class Way(StrEnum):
    """How a worker runs; the value is the name of its host."""

    BARE = "bare"
    PODMAN = "podman"
    PEER = "peer"
    """Bare too: the other side of the A/A ratio."""

    DOCKER = "docker"

    @property
    def shown(self) -> str:
        """Return what readers of figures call it; both bare workers are one to them."""
        return Way.BARE.value if self is Way.PEER else self.value


CONTAINERS = (Way.PODMAN, Way.DOCKER)


@dataclass(frozen=True)
class Sample:
    """One measurement: tokens per second after the first token, and seconds from asking to the first."""

    rate: float
    first: float


Round = Mapping[Way, Sample]


class Verdict(StrEnum):
    """What the figures say of the goal."""

    MET = "met"
    NOT_MET = "not met"
    UNDECIDED = "undecided"


@dataclass
class Found:
    """Everything measured: rounds, and by way seconds of starts and MiB of idle workers; sizes of images in MiB."""

    images: dict[str, float] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    starts: dict[Way, list[float]] = field(default_factory=dict)
    memory: dict[Way, float] = field(default_factory=dict)

    @property
    def aa(self) -> float:
        """Return the speed of one bare worker in that of the other: 1 if nothing but the way of running matters."""
        return statistics.median(each[Way.PEER].rate / each[Way.BARE].rate for each in self.rounds)

    @property
    def ratio(self) -> float:
        """Return the speed of the slower engine's container in that of a bare worker."""
        return min(self.rate_ratio(way) for way in CONTAINERS)

    @property
    def decided(self) -> bool:
        """Say whether two bare workers are as fast as each other."""
        return abs(self.aa - 1) <= MOST_SPREAD

    @property
    def verdict(self) -> Verdict:
        """Return what this run says of the goal."""
        if not self.decided:
            return Verdict.UNDECIDED
        return Verdict.MET if self.ratio >= LEAST_RATIO else Verdict.NOT_MET

    def rate_ratio(self, way: Way) -> float:
        """Return a way's tokens per second in those of bare workers; below 1 is slower."""
        return self._against_bare(way, lambda sample: sample.rate)

    def first_ratio(self, way: Way) -> float:
        """Return a way's time to the first token in that of bare workers; above 1 is slower."""
        return self._against_bare(way, lambda sample: sample.first)

    def start(self, shown: str) -> float:
        """Return the median seconds of a start."""
        return statistics.median(value for way, all_ in self.starts.items() if way.shown == shown for value in all_)

    def line(self) -> str:
        """Return the line of JSON."""
        found = {
            "bench": "container",
            "ratio": round(self.ratio, 4),
            "aa": round(self.aa, 4),
            "image_mib": {name: round(size, 1) for name, size in self.images.items()},
            "cold_start_s": {shown: round(self.start(shown), 2) for shown in _shown(self.starts)},
            "tokens_ratio": {way.value: round(self.rate_ratio(way), 4) for way in CONTAINERS},
            "ttft_ratio": {way.value: round(self.first_ratio(way), 4) for way in CONTAINERS},
            "idle_mib": {shown: round(self._idle(shown), 1) for shown in _shown(self.memory)},
            "rounds": len(self.rounds),
            "verdict": self.verdict.value,
        }
        return json.dumps(found)

    def table(self) -> str:
        """Return one row per worker: medians, and how they compare."""
        head = f"{'worker':<8}{'tokens/s':>10}{'ratio':>9}{'ttft, ms':>10}{'ratio':>9}{'start, s':>10}{'idle, MiB':>11}"
        return "\n".join((head, *(self._row(way) for way in Way)))

    def goal(self) -> str:
        """Return the sentence on the goal."""
        said = f"tokens/s in a container {self.ratio:.4f} of bare, goal >= {LEAST_RATIO:g}: {self.verdict}"
        if self.verdict is not Verdict.UNDECIDED:
            return said
        return (
            f"{said}: two bare workers compare as {self.aa:.4f}, off 1 by more than {MOST_SPREAD:g}, after "
            f"{len(self.rounds)} rounds; run it on a quieter machine"
        )

    def _row(self, way: Way) -> str:
        rate = statistics.median(each[way].rate for each in self.rounds)
        first = 1000 * statistics.median(each[way].first for each in self.rounds)
        start, idle = statistics.median(self.starts[way]), self.memory[way]
        return (
            f"{way:<8}{rate:>10.2f}{self.rate_ratio(way):>9.4f}{first:>10.1f}{self.first_ratio(way):>9.4f}"
            f"{start:>10.2f}{idle:>11.1f}"
        )

    def _idle(self, shown: str) -> float:
        return statistics.mean(value for way, value in self.memory.items() if way.shown == shown)

    def _against_bare(self, way: Way, figure: Callable[[Sample], float]) -> float:
        """Return a figure in the mean of both bare workers: of two, it is the steadier thing to divide by."""
        bare = (statistics.mean((figure(each[Way.BARE]), figure(each[Way.PEER]))) for each in self.rounds)
        return statistics.median(figure(each[way]) / value for each, value in zip(self.rounds, bare, strict=True))


def _shown(ways: Mapping[Way, object]) -> Iterator[str]:
    return iter(dict.fromkeys(way.shown for way in ways))


def order(number: int) -> Sequence[Way]:
    """Return who goes first in a round: each is as often in each place, and bare and containers take turns."""
    ways = tuple(Way)
    at = number % len(ways)
    return (*ways[at:], *ways[:at])


def enough(found: Found, least: int, most: int) -> bool:
    """Say whether no more rounds are needed: `least` at any rate, then until decided, at the most `most`."""
    count = len(found.rounds)
    return count >= most or (count >= least and found.decided)
