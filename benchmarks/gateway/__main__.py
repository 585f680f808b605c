"""The queen's gateway beside vllm-router, LiteLLM and nginx: answers/s, streams/s, what a chunk costs, added time.

`python -m benchmarks.gateway [--rounds N] [--seconds S]` puts one gateway at a time on one core and mock workers and
clients on another, in rounds, and prints a table, the goals and a line of JSON. Exit status 1 unless all goals are met.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from benchmarks import ending
from benchmarks.gateway import measures, sides
from benchmarks.gateway.load import BenchError
from benchmarks.gateway.results import TOGETHER, Found, Round, Sample, Side, Verdict, order
from benchmarks.gateway.running import Bench, Cores, Ports, Running, Workers
from rbee_deploy.errors import DeployError
from rbee_runtime import open_files

ROUNDS, MOST_ROUNDS = 3, 30
SECONDS, MOST_SECONDS = 3.0, 60.0


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; what cannot be is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"1 to {MOST_ROUNDS} (default: %(default)s)")
    seconds = f"of each measurement, 1 to {MOST_SECONDS:g} (default: %(default)g)"
    parser.add_argument("--seconds", type=float, default=SECONDS, help=seconds)
    options = parser.parse_args(argv)
    for name, bound in (("rounds", MOST_ROUNDS), ("seconds", MOST_SECONDS)):
        if not 1 <= getattr(options, name) <= bound:
            parser.error(f"--{name} {getattr(options, name):g} is not between 1 and {bound:g}")
    return options


async def measure(found: Found, rounds: int, seconds: float, folder: Path) -> None:
    """Note the figures of so many rounds."""
    cores = Cores.of_this_machine()
    # First, as it takes minutes once: a hive that is silent for so long is lost.
    there = sides.installed(found)
    async with sides.up(there, found, Bench(cores, Ports(), folder)) as (mock, running):
        os.sched_setaffinity(0, {cores.load})
        # What lives from here on is no rubbish, and looking for some is a pause in somebody's figure.
        gc.freeze()
        gc.disable()
        for number in range(rounds):
            found.rounds.append(await one_round(running, mock, seconds, number))
            gc.collect()
        for side in found.steady():
            found.together[side], fault = await measures.together(running[side], mock)
            _say(f"{found.together[side]} of {TOGETHER} streams together through {side}{fault and f'; wrong: {fault}'}")


async def one_round(running: Mapping[Side, Running], mock: Workers, seconds: float, number: int) -> Round:
    """Measure each side once."""
    measured: dict[Side, Sample] = {}
    for side in order(tuple(running), number):
        measured[side] = got = await measures.sample(running[side], mock, seconds)
        _say(f"round {number + 1}, {side}: {got.json:.0f} whole answers/s, {got.sse:.0f} streams/s")
    return measured


def _say(line: str) -> None:
    print(f"bench-gateway: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print; exit 1 unless all goals are met."""
    options = read_options()
    open_files.allow_many()
    found = Found()
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        try:
            uvloop.run(measure(found, options.rounds, options.seconds, Path(folder)))
        except (BenchError, DeployError, OSError) as error:
            sys.exit(f"bench-gateway: {error}")
    print("\n".join((found.table(), "", *found.remarks(), *(goal.sentence() for goal in found.goals()), found.line())))
    sys.exit(found.verdict is not Verdict.MET)


if __name__ == "__main__":
    ending.quietly(main, "bench-gateway")
