"""The cases on a number of lab hosts, each run by both tools in turn."""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.deploy.results import Case, Compared, Run
from benchmarks.deploy.sides import (
    MODEL,
    AnsibleSide,
    RbeeSide,
    Side,
    check_converged,
    check_serving,
)
from benchmarks.deploy.upgrade import copy_checkout
from tests.e2e.fleets import ROOT, Fleet
from tests.lab import Lab

ROUNDS = 3
SETTLE_SECONDS = 2.0
"""A worker that was just started still uses a processor that the next run would miss."""

WORKER_PORTS = ((9000, 9098), (9000, 9099))
"""Values of the one line that the case `change` changes in turn; running workers are in both ranges."""


def measure(count: int, wanted: Collection[Case], scratch: Path) -> Iterator[Compared]:
    """Yield the wanted cases for so many hosts; a first install always comes first."""
    with both_sides(count, scratch) as sides:
        for case, rounds, prepare in (
            (Case.FIRST, 1, _nothing),
            (Case.NOOP, ROUNDS, _nothing),
            (Case.CHANGE, ROUNDS, _change_ports),
            (Case.UPGRADE, 1, lambda side, _: _upgrade(side, scratch / "next")),
        ):
            if case in wanted or case is Case.FIRST:
                compared = compare(case, sides, rounds, prepare)
                _check(sides, serving=case is not Case.NOOP)
                if case in wanted:
                    yield replace(compared, operations=sides[0].operations())


@contextmanager
def both_sides(count: int, scratch: Path) -> Iterator[tuple[RbeeSide, AnsibleSide]]:
    """Give two labs with equal, fresh hosts."""
    with ExitStack() as stack:
        fleets = [stack.enter_context(fresh_fleet(f"bench-{name}", count)) for name in ("rbee", "ansible")]
        yield RbeeSide(fleets[0], scratch / f"rbee-{count}"), AnsibleSide(fleets[1], scratch / f"ansible-{count}")


@contextmanager
def fresh_fleet(label: str, count: int) -> Iterator[Fleet]:
    """Give so many hosts that nothing was deployed to; the first is queen and hive, the others are hives."""
    with Lab.create(label) as lab:
        fleet = Fleet(lab)
        fleet.models[MODEL] = {"name": MODEL, "source": "fake:tokens=3", "replicas": "each_host"}
        for number in range(1, count + 1):
            fleet.declare(lab.add_host(f"box{number}"), queen=number == 1, engines=[])
        try:
            yield fleet
        finally:
            fleet.close()


def compare(case: Case, sides: tuple[Side, Side], rounds: int, prepare: Callable[[Side, int], None]) -> Compared:
    """Run a case on both sides, in an order that changes with each round."""
    runs: dict[int, list[Run]] = {0: [], 1: []}
    for number in range(rounds):
        for side in sides:
            prepare(side, number)
            side.prepare()
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            time.sleep(SETTLE_SECONDS)
            run = sides[index].deploy()
            runs[index].append(run)
            _say(f"{len(sides[index].fleet.hosts)} hosts, {case}: {type(sides[index]).__name__} {run.seconds:.2f} s")
    return Compared(case, len(sides[0].fleet.hosts), tuple(runs[0]), tuple(runs[1]))


def _check(sides: tuple[Side, Side], *, serving: bool) -> None:
    for side in sides:
        check_converged(side)
        if serving:
            check_serving(side)


def _nothing(_side: Side, _number: int) -> None:
    """Leave everything as it is."""


def _change_ports(side: Side, number: int) -> None:
    for item in side.fleet.hosts.values():
        item["worker_ports"] = WORKER_PORTS[number % len(WORKER_PORTS)]


def _upgrade(side: Side, checkout: Path) -> None:
    side.checkout = checkout if checkout.is_dir() else copy_checkout(ROOT, checkout)


def _say(line: str) -> None:
    print(f"bench-deploy: {line}", file=sys.stderr, flush=True)
