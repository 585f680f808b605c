"""A worker in a container of Podman or Docker beside the same worker bare: tokens/s, first token, start and memory.

`python -m benchmarks.container [--rounds N] [--most N] [--threads N]` needs root, makes four lab hosts and prints a
table, the goal and a line of JSON. One worker at a time is asked, in rounds; two of the four are bare, and rounds go on
until those two are as fast as each other within 1 %. Exit status 1 unless the goal is met.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import httpx

from benchmarks import ending
from benchmarks.container import hosts
from benchmarks.container.asking import BenchError, measure
from benchmarks.container.results import Found, Round, Sample, Verdict, Way, enough, order
from rbee_deploy.errors import DeployError
from tests.e2e.fleets import Fleet
from tests.lab import LabError

LEAST_ROUNDS, MOST_ROUNDS = 12, 48
ROUNDS_OF_A_START = 4
"""A worker is fast or slow by luck too, as its memory happens to lie; each is started anew after so many rounds."""

QUESTIONS = 3


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; what cannot be is one sentence and exit status 2."""
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.container", description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"at least so many, 1 to the most (default: {LEAST_ROUNDS})")
    most = f"until two bare workers agree, 1 to {MOST_ROUNDS} (default: %(default)s)"
    parser.add_argument("--most", type=int, default=MOST_ROUNDS, help=most)
    threads = f"of each worker, 1 to {cpus} (default: %(default)s, to leave some to all that is not the model)"
    parser.add_argument("--threads", type=int, default=max(1, min(8, cpus // 2)), help=threads)
    options = parser.parse_args(argv)
    if options.rounds is None:
        options.rounds = min(LEAST_ROUNDS, options.most)
    for name, bound in (("most", MOST_ROUNDS), ("rounds", options.most), ("threads", cpus)):
        if not 1 <= getattr(options, name) <= bound:
            parser.error(f"--{name} {getattr(options, name)} is not between 1 and {bound}")
    return options


def run(least: int, most: int, threads: int) -> Found:
    """Return the figures of `least` to `most` rounds."""
    with hosts.deployed(threads) as (fleet, sizes):
        found = Found(images=sizes)
        while not enough(found, least, most):
            if len(found.rounds) % ROUNDS_OF_A_START == 0:
                start_all(fleet, found)
            number = len(found.rounds)
            found.rounds.append(one_round(fleet, number))
            speeds = ", ".join(f"{way} {found.rounds[-1][way].rate:.2f}" for way in Way)
            _say(f"round {number + 1}, tokens/s: {speeds}; bare to bare {found.aa:.4f}")
        return found


def start_all(fleet: Fleet, found: Found) -> None:
    """Start each worker anew, one after the other, and note how long that took and what it takes before any request."""
    for way in order(len(found.rounds) // ROUNDS_OF_A_START):
        found.starts.setdefault(way, []).append(hosts.restart(fleet, way))
        found.memory[way] = hosts.idle_mib(fleet, way)
        _say(f"start of {way}: {found.starts[way][-1]:.2f} s, {found.memory[way]:.1f} MiB")


def one_round(fleet: Fleet, number: int) -> Round:
    """Measure each worker once; raise BenchError if they did not say the same, as then they did not do the same."""
    numbers = range(number * QUESTIONS + 1, (number + 1) * QUESTIONS + 1)
    found: dict[Way, Sample] = {}
    said: dict[Way, str] = {}
    for way in order(number):
        with hosts.client(fleet) as client:
            found[way], said[way] = measure(client, hosts.url_of(fleet, way), hosts.model_of(way), numbers)
    if other := [way for way in Way if said[way] != said[Way.BARE]]:
        raise BenchError(f"{', '.join(other)} gave other answers than {Way.BARE}: speeds cannot be compared")
    return found


def _say(line: str) -> None:
    print(f"bench-container: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print; exit 1 unless the goal is met."""
    options = read_options()
    try:
        found = run(options.rounds, options.most, options.threads)
    # An assertion is how the fleet says what did not come in time.
    except (AssertionError, BenchError, DeployError, LabError, httpx.HTTPError) as error:
        sys.exit(f"bench-container: {error}")
    print(f"{found.table()}\n\n{found.goal()}\n{found.line()}")
    sys.exit(found.verdict is not Verdict.MET)


if __name__ == "__main__":
    ending.quietly(main, "bench-container")
