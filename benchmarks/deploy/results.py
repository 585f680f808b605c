"""What was measured, as a table for people and one line of JSON per case."""

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

LEAST_NOOP_RATIO = 5.0
MOST_NOOP_COMMANDS = 3
MOST_FULL_SECONDS, MOST_IDLE_SECONDS = 15.0, 5.0

_COUNT = re.compile(r"^(\S+) +(\d+) remote commands?$", re.MULTILINE)


class Case(StrEnum):
    """What is measured; the order is the order of measuring."""

    FIRST = "first"
    NOOP = "noop"
    CHANGE = "change"
    UPGRADE = "upgrade"
    FLEET = "fleet"


@dataclass(frozen=True)
class Run:
    """One run of a command: wall time from its start to its end, what it said and what it printed."""

    seconds: float
    said: str = ""
    printed: str = ""


@dataclass(frozen=True)
class Compared:
    """One case on so many hosts: the runs of both tools, and how many operations a deploy of rbee has."""

    case: Case
    hosts: int
    rbee: tuple[Run, ...]
    ansible: tuple[Run, ...]
    operations: int = 0

    @property
    def rbee_seconds(self) -> float:
        """Return the median."""
        return statistics.median(run.seconds for run in self.rbee)

    @property
    def ansible_seconds(self) -> float:
        """Return the median."""
        return statistics.median(run.seconds for run in self.ansible)

    @property
    def ratio(self) -> float:
        """Return how many times faster rbee is."""
        return self.ansible_seconds / self.rbee_seconds

    @property
    def remote_commands(self) -> int:
        """Return the most that any host got in any of rbee's runs."""
        return max(most_commands(run.said) for run in self.rbee)

    def line(self) -> str:
        """Return the line of JSON."""
        found = {
            "bench": f"deploy-{self.case}",
            "hosts": self.hosts,
            "rbee_s": round(self.rbee_seconds, 2),
            "ansible_s": round(self.ansible_seconds, 2),
            "ratio": round(self.ratio, 2),
            "remote_commands": self.remote_commands,
        }
        return json.dumps(found)


@dataclass(frozen=True)
class Crowd:
    """Made-up hosts: seconds of a run that changes every one of them, and of one that changes none."""

    hosts: int
    latency_ms: int
    full: Run
    noop: Run

    def line(self) -> str:
        """Return the line of JSON."""
        found = {
            "bench": "deploy-fleet",
            "hosts": self.hosts,
            "latency_ms": self.latency_ms,
            "full_s": round(self.full.seconds, 2),
            "noop_s": round(self.noop.seconds, 2),
        }
        return json.dumps(found)


def most_commands(said: str) -> int:
    """Return the largest number of remote commands in a report."""
    return max((int(count) for _, count in _COUNT.findall(said)), default=0)


def table(compared: Iterable[Compared]) -> str:
    """Return the comparison, one row per case and number of hosts."""
    head = f"{'case':<10}{'hosts':>6}{'rbee, s':>10}{'ansible, s':>12}{'ratio':>8}{'remote commands':>17}"
    rows = (
        f"{item.case:<10}{item.hosts:>6}{item.rbee_seconds:>10.2f}{item.ansible_seconds:>12.2f}{item.ratio:>8.2f}"
        f"{item.remote_commands:>17}"
        for item in compared
    )
    return "\n".join((head, *rows))


def goals(compared: Sequence[Compared], crowd: Crowd | None) -> Iterator[str]:
    """Yield a sentence for each goal that something was measured for."""
    for item in compared:
        if item.case is Case.NOOP:
            yield _goal(
                f"no-op, {item.hosts} hosts: ratio",
                item.ratio,
                f">= {LEAST_NOOP_RATIO:g}",
                item.ratio >= LEAST_NOOP_RATIO,
            )
            few = item.remote_commands <= MOST_NOOP_COMMANDS
            yield _goal(
                f"no-op, {item.hosts} hosts: remote commands", item.remote_commands, f"<= {MOST_NOOP_COMMANDS}", few
            )
    if crowd is not None:
        for name, run, most in (("full", crowd.full, MOST_FULL_SECONDS), ("no-op", crowd.noop, MOST_IDLE_SECONDS)):
            met = run.seconds <= most
            yield _goal(f"{crowd.hosts} made-up hosts, {name}: seconds", run.seconds, f"<= {most:g}", met)


def _goal(what: str, found: float, wanted: str, met: bool) -> str:
    return f"{what} {found:.4g}, goal {wanted}: {'met' if met else 'not met'}"
