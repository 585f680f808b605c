"""What was measured, as a table for people and one line of JSON; pure.

Gateways are compared within a round, where the machine was in the same mood, and the median of all rounds counts.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LEAST_OF_ROUTER_JSON, LEAST_OF_ROUTER_SSE, LEAST_OF_LITELLM = 2.0, 1.1, 100.0
MOST_ADDED_P50, MOST_ADDED_P99 = 0.5, 3.0
LIVE, TOGETHER = 300, 2000
"""Streams at the same time: those that are weighed, and those that have to pass."""

PACE = 200
"""Streaming requests a second at which added time is measured."""

IDLE = 0.1
"""A gateway that leaves more of its core idle was not the bound of a rate."""

MOST_FOREIGN = 0.1
"""If others take more of the core, figures are theirs too, and nothing is decided."""


class Side(StrEnum):
    """Who answers; AGAIN is a second queen, to see what a difference of two equal ones is."""

    QUEEN = "queen"
    QUEEN_TLS = "queen_tls"
    AGAIN = "queen_again"
    VLLM_ROUTER = "vllm_router"
    LITELLM = "litellm"
    NGINX = "nginx"
    DIRECT = "direct"


OURS = (Side.QUEEN, Side.QUEEN_TLS)


@dataclass(frozen=True)
class Sample:
    """One measurement of one gateway; None is what it was not asked for, because it could not.

    Answers a second whole and streamed, the share of its core that it took for whole ones (None: it has none) and
    the share that others of this machine took, microseconds of processor for a relayed chunk, and milliseconds to the
    first event at a steady pace.
    """

    json: float
    sse: float
    core: float | None = None
    foreign: float | None = None
    chunk: float | None = None
    p50: float | None = None
    p99: float | None = None


Round = Mapping[Side, Sample]
Figure = Callable[[Sample], float | None]

FIGURES: Mapping[str, Figure] = {
    "json_rps": lambda sample: sample.json,
    "sse_rps": lambda sample: sample.sse,
    "us_per_chunk": lambda sample: sample.chunk,
    "core": lambda sample: sample.core,
    "foreign": lambda sample: sample.foreign,
    "full_core": lambda sample: sample.json / sample.core if sample.core else None,
    "p50_ms": lambda sample: sample.p50,
    "p99_ms": lambda sample: sample.p99,
}


class Verdict(StrEnum):
    """What the figures say of the goals."""

    MET = "met"
    NOT_MET = "not met"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Goal:
    """One goal: what it is about, what was found, and the bound that it has to keep.

    Nothing found is a goal missed if it is `ours`, because then we could not do it, else nothing to compare with.
    """

    about: str
    found: float | None
    bound: float
    least: bool = True
    ours: bool = False

    @property
    def met(self) -> bool | None:
        """Say whether it is met; None where that cannot be said."""
        if self.found is None:
            return False if self.ours else None
        return self.found >= self.bound if self.least else self.found <= self.bound

    def sentence(self) -> str:
        """Return it in words."""
        words = {True: Verdict.MET, False: Verdict.NOT_MET, None: Verdict.UNDECIDED}[self.met]
        shown = "not measured" if self.found is None else f"{self.found:.4g}"
        return f"{self.about}: {shown}, goal {'>=' if self.least else '<='} {self.bound:g}: {words}"


@dataclass
class Found:
    """Everything measured: rounds, how many streams passed together with all others, and the versions of peers.

    `absent` says why a side is not there.
    """

    rounds: list[Round] = field(default_factory=list)
    together: dict[Side, int] = field(default_factory=dict)
    versions: dict[Side, str] = field(default_factory=dict)
    absent: dict[Side, str] = field(default_factory=dict)

    def sides(self) -> list[Side]:
        """Return who was measured."""
        return [side for side in Side if self.rounds and side in self.rounds[0]]

    def steady(self) -> list[Side]:
        """Return who could take requests at a steady pace, and is therefore asked for many streams at a time."""
        return [side for side in self.sides() if side is not Side.AGAIN and self.figure(side, "p50_ms") is not None]

    def remarks(self) -> list[str]:
        """Return a sentence for each side that is not there, lacks a figure or could have done more."""
        sides = [side for side in self.sides() if side is not Side.DIRECT]
        idle = [(side, self.idle(side)) for side in sides]
        weak = [side for side in sides if self.figure(side, "p50_ms") is None]
        full = [side for side in sides if self.figure(side, "us_per_chunk") is None]
        said = [
            (f"{side} could not be measured here: {why}" for side, why in self.absent.items()),
            (f"{side} takes too few streams a second for {PACE} a second and {TOGETHER} together" for side in weak),
            (f"{side} has its core full before {LIVE} live streams run: no price of a chunk" for side in full),
            (
                f"{side} left {share:.0%} of its core idle: others were the bound"
                for side, share in idle
                if share > IDLE
            ),
            (
                f"others of this machine took {self.foreign:.0%} of the gateways' core: measure on a quieter one"
                for _ in range(self.foreign > MOST_FOREIGN)
            ),
        ]
        return [sentence for kind in said for sentence in kind]

    def idle(self, side: Side) -> float:
        """Return the share of a gateway's core that nobody took at whole answers."""
        core, foreign = self.figure(side, "core"), self.figure(side, "foreign")
        return 0.0 if core is None or foreign is None else 1 - core - foreign

    @property
    def foreign(self) -> float:
        """Return the share of the gateways' core that others of this machine took, for the side that lost most."""
        return max((self.figure(side, "foreign") or 0.0 for side in self.sides()), default=0.0)

    def figure(self, side: Side, name: str) -> float | None:
        """Return the median of a figure, None if it is not there in every round."""
        return _median(FIGURES[name](each[side]) if side in each else None for each in self.rounds)

    def ratio(self, other: Side, name: str, ours: Side = Side.QUEEN) -> float | None:
        """Return our figure in another's."""
        return self._compared(ours, other, name, lambda a, b: a / b)

    def added(self, side: Side, name: str) -> float | None:
        """Return the milliseconds that a gateway adds to the way without one."""
        return self._compared(side, Side.DIRECT, name, lambda a, b: a - b)

    def _compared(self, side: Side, other: Side, name: str, how: Callable[[float, float], float]) -> float | None:
        pairs = [(_of(each, side, name), _of(each, other, name)) for each in self.rounds]
        return _median(how(a, b) if a is not None and b is not None else None for a, b in pairs)

    @property
    def spread(self) -> float | None:
        """Return how far two equal queens are apart at most, as a share."""
        ratios = [self.ratio(Side.AGAIN, name) for name in ("json_rps", "sse_rps", "us_per_chunk")]
        return max((abs(ratio - 1) for ratio in ratios if ratio is not None), default=None)

    def goals(self) -> list[Goal]:
        """Return all goals; those of speed are of the queen with plain HTTP behind, as its peers have it."""
        router_json, router_sse = (self.ratio(Side.VLLM_ROUTER, name) for name in ("json_rps", "sse_rps"))
        litellm = [self.ratio(Side.LITELLM, name) for name in ("json_rps", "sse_rps")]
        worst = min((ratio for ratio in litellm if ratio is not None), default=None)
        return [
            Goal("whole answers/s in vllm-router's", router_json, LEAST_OF_ROUTER_JSON),
            Goal("streams/s in vllm-router's", router_sse, LEAST_OF_ROUTER_SSE),
            Goal("answers/s in LiteLLM's, the smaller of whole and streamed", worst, LEAST_OF_LITELLM),
            self._added_goal("p50", MOST_ADDED_P50),
            self._added_goal("p99", MOST_ADDED_P99),
            *(
                Goal(f"of {TOGETHER} streams together through {side}", self.together.get(side), TOGETHER, ours=True)
                for side in OURS
            ),
        ]

    def _added_goal(self, name: str, most: float) -> Goal:
        added = self.added(Side.QUEEN, f"{name}_ms")
        return Goal(f"added ms to the first event, {name}", added, most, least=False, ours=True)

    @property
    def verdict(self) -> Verdict:
        """Return what this run says of all goals."""
        if self.foreign > MOST_FOREIGN:
            return Verdict.UNDECIDED
        met = [goal.met for goal in self.goals()]
        if False in met:
            return Verdict.NOT_MET
        return Verdict.UNDECIDED if None in met else Verdict.MET

    def table(self) -> str:
        """Return one row per side: medians."""
        head = (
            f"{'gateway':<12}{'whole/s':>10}{'core, %':>9}{'full core/s':>13}{'streams/s':>11}{'us/chunk':>10}"
            f"{'first p50, ms':>15}{'p99, ms':>9}{'added p50':>11}{'added p99':>11}{'together':>10}"
        )
        return "\n".join((head, *(self._row(side) for side in self.sides())))

    def _row(self, side: Side) -> str:
        core = self.figure(side, "core")
        cells = (
            (self.figure(side, "json_rps"), 10, 0),
            (None if core is None else 100 * core, 9, 0),
            (self.figure(side, "full_core"), 13, 0),
            (self.figure(side, "sse_rps"), 11, 0),
            (self.figure(side, "us_per_chunk"), 10, 1),
            (self.figure(side, "p50_ms"), 15, 2),
            (self.figure(side, "p99_ms"), 9, 2),
            (None if side is Side.DIRECT else self.added(side, "p50_ms"), 11, 2),
            (None if side is Side.DIRECT else self.added(side, "p99_ms"), 11, 2),
            (self.together.get(side), 10, 0),
        )
        shown = (
            f"{'-':>{width}}" if value is None else f"{value:>{width}.{places}f}" for value, width, places in cells
        )
        return f"{side:<12}{''.join(shown)}"

    def line(self) -> str:
        """Return the line of JSON; ratios are ours in theirs, `added_ms` the queen's."""
        names = {"json": "json_rps", "sse": "sse_rps"}
        found = {
            "bench": "gateway",
            **{name: self._by_side(name) for name in ("json_rps", "sse_rps", "us_per_chunk")},
            **{
                f"ratio_{other}": {short: _short(self.ratio(other, name)) for short, name in names.items()}
                for other in (Side.VLLM_ROUTER, Side.LITELLM, Side.NGINX)
            },
            "added_ms": self._added(Side.QUEEN),
            "queen_tls": {
                "ratio_vllm_router": {
                    short: _short(self.ratio(Side.VLLM_ROUTER, name, Side.QUEEN_TLS)) for short, name in names.items()
                },
                "added_ms": self._added(Side.QUEEN_TLS),
            },
            f"streams_{TOGETHER}": {side.value: self.together.get(side) for side in Side if side is not Side.AGAIN},
            **{name: self._by_side(name) for name in ("core", "full_core", "foreign")},
            "aa_spread": _short(self.spread),
            "versions": {side.value: version for side, version in self.versions.items()},
            "rounds": len(self.rounds),
            "verdict": self.verdict.value,
        }
        return json.dumps(found)

    def _by_side(self, name: str) -> dict[str, float | None]:
        return {side.value: _short(self.figure(side, name)) for side in Side if side is not Side.AGAIN}

    def _added(self, side: Side) -> dict[str, float | None]:
        return {short: _short(self.added(side, f"{short}_ms")) for short in ("p50", "p99")}


def _of(each: Round, side: Side, name: str) -> float | None:
    return FIGURES[name](each[side]) if side in each else None


def _median(values: Iterable[float | None]) -> float | None:
    known = list(values)
    there = [value for value in known if value is not None]
    return statistics.median(there) if there and len(there) == len(known) else None


def _short(value: float | None) -> float | None:
    """Return a figure with the digits that mean something."""
    return None if value is None else float(f"{value:.4g}")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of `values` that at least this share of them does not exceed."""
    ordered = sorted(values)
    # Rounded, or a hundredth of eight hundred would be a little more than eight.
    return ordered[max(0, math.ceil(round(len(ordered) * share, 6)) - 1)]


def order(sides: Sequence[Side], number: int) -> Sequence[Side]:
    """Return who goes first in a round: each is as often in each place."""
    at = number % len(sides)
    return (*sides[at:], *sides[:at])
