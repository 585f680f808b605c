"""What was measured, as a table for people and one line of JSON; pure.

Speeds are compared within a round, where the machine was in the same mood, and the median of all rounds counts.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

WIDTHS = (1, 4, 8)
LEAST_OF_SERVER, LEAST_OF_BINDING, MOST_FIRST = 1.0, 2.3, 1.0


class Side(StrEnum):
    """A server; AGAIN is ours once more, to see what a difference of two equal ones is."""

    OURS = "rbee-worker"
    LLAMA_SERVER = "llama-server"
    LLAMA_CPP_PYTHON = "llama_cpp.server"
    AGAIN = "rbee-worker again"


class Answered(Protocol):
    """What a client saw of one answer: seconds to its first token, and between each and the next."""

    @property
    def first(self) -> float: ...  # noqa: D102 - the class says it

    @property
    def gaps(self) -> Sequence[float]: ...  # noqa: D102 - the class says it


@dataclass
class Sample:
    """What one side did in a round: seconds and tokens of all its turns, and what its clients waited for."""

    seconds: float = 0.0
    tokens: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, seconds: float, tokens: int, answers: Iterable[Answered]) -> None:
        """Note one turn."""
        self.seconds += seconds
        self.tokens += tokens
        for answer in answers:
            self.firsts.append(answer.first)
            self.gaps += answer.gaps

    @property
    def rate(self) -> float:
        """Return the tokens per second of all clients together."""
        return self.tokens / self.seconds

    @property
    def first(self) -> float:
        """Return the median time to the first token."""
        return statistics.median(self.firsts)

    @property
    def late(self) -> float:
        """Return the time to the first token of the client that waited longest but for one in twenty."""
        ordered = sorted(self.firsts)
        return ordered[max(0, -(-len(ordered) * 19 // 20) - 1)]

    @property
    def gap(self) -> float:
        """Return the median time from a token to the next."""
        return statistics.median(self.gaps)


@dataclass
class Found:
    """Samples by width, by whether the system prompt is shared, and by side; one per round."""

    rounds: int = 0
    samples: dict[tuple[int, bool, Side], list[Sample]] = field(default_factory=dict)

    def add(self, width: int, side: Side, sample: Sample, *, shared: bool) -> None:
        """Note one measurement."""
        self.samples.setdefault((width, shared, side), []).append(sample)

    def ratio(
        self, width: int, side: Side, *, shared: bool, of: Callable[[Sample], float] = lambda sample: sample.rate
    ) -> float:
        """Return our figure in a side's, the median of all rounds."""
        ours, theirs = self.samples[width, shared, Side.OURS], self.samples[width, shared, side]
        return statistics.median(of(a) / of(b) for a, b in zip(ours, theirs, strict=True))

    def worst(self, width: int, side: Side, of: Callable[[Sample], float] = lambda sample: sample.rate) -> float:
        """Return the smaller ratio of both kinds of prompts."""
        return min(self.ratio(width, side, shared=shared, of=of) for shared in (True, False))

    @property
    def spread(self) -> float:
        """Return how far two equal servers are apart at most, as a share."""
        return max(
            abs(self.ratio(width, Side.AGAIN, shared=shared) - 1) for width in WIDTHS for shared in (True, False)
        )

    @property
    def met(self) -> bool:
        """Say whether all goals are met."""
        fast = all(self.worst(width, Side.LLAMA_SERVER) >= LEAST_OF_SERVER for width in WIDTHS)
        binding = self.worst(max(WIDTHS), Side.LLAMA_CPP_PYTHON) >= LEAST_OF_BINDING
        return fast and binding and all(ratio <= MOST_FIRST for ratio in self._firsts().values())

    def table(self) -> str:
        """Return one row per width, kind of prompts and side."""
        figures = "".join(f"{name:>13}" for name in ("tokens/s", "ttft p50, s", "ttft p95, s", "gap p50, ms"))
        head = f"{'clients':>7} {'prompts':<9}{'server':<20}{figures}"
        return "\n".join((head, *(self._row(*key) for key in sorted(self.samples))))

    def line(self) -> str:
        """Return the line of JSON; ratios are ours in theirs, the worse of both kinds of prompts."""
        found = {
            "bench": "worker",
            "ratio_llama_server": {str(w): round(self.worst(w, Side.LLAMA_SERVER), 3) for w in WIDTHS},
            "ratio_llama_cpp_python": {str(w): round(self.worst(w, Side.LLAMA_CPP_PYTHON), 3) for w in WIDTHS},
            "ttft_ratio": {str(w): round(ratio, 3) for w, ratio in self._firsts().items()},
            "gap_ratio": {str(w): round(self._most(w, lambda sample: sample.gap), 3) for w in WIDTHS},
            "shared": {str(w): round(self.ratio(w, Side.LLAMA_SERVER, shared=True), 3) for w in WIDTHS},
            "distinct": {str(w): round(self.ratio(w, Side.LLAMA_SERVER, shared=False), 3) for w in WIDTHS},
            "aa_spread": round(self.spread, 3),
            "rounds": self.rounds,
            "verdict": "met" if self.met else "not met",
        }
        return json.dumps(found)

    def _firsts(self) -> dict[int, float]:
        """Return by width our time to the first token in llama-server's."""
        return {width: self._most(width, lambda sample: sample.first) for width in WIDTHS}

    def _most(self, width: int, of: Callable[[Sample], float]) -> float:
        """Return the larger ratio of both kinds of prompts to llama-server."""
        return max(self.ratio(width, Side.LLAMA_SERVER, shared=shared, of=of) for shared in (True, False))

    def _row(self, width: int, shared: bool, side: Side) -> str:
        samples = self.samples[width, shared, side]
        rate = statistics.median(each.rate for each in samples)
        first = statistics.median(each.first for each in samples)
        late = statistics.median(each.late for each in samples)
        gap = statistics.median(each.gap for each in samples) * 1000
        kind = "shared" if shared else "distinct"
        return f"{width:>7} {kind:<9}{side:<20}{rate:>13.1f}{first:>13.3f}{late:>13.3f}{gap:>13.1f}"


def order(number: int) -> Sequence[Side]:
    """Return who goes first in a turn: each is as often in each place, over four turns."""
    sides = tuple(Side)
    at = number % len(sides)
    return (*sides[at:], *sides[:at])
