"""Our llama-cpp worker beside llama.cpp's own server and the binding's: tokens/s and first token, end to end over HTTP.

`python -m benchmarks.worker [--rounds N] [--threads N]` compiles llama-server once (some minutes), starts all servers
on loopback, asks one of them at a time, and prints a table and a line of JSON. Each round has new processes: where
their memory lies makes some per cent of speed for as long as they live. Exit status 1 unless the goal is met.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import ending
from benchmarks.worker import servers
from benchmarks.worker.asking import TOKENS, clients
from benchmarks.worker.results import WIDTHS, Found, Sample, Side, order
from benchmarks.worker.servers import BenchError, Server
from rbee_deploy.errors import DeployError
from rbee_runtime.hive.worker_ports import is_free

ROUNDS, MOST_ROUNDS = 3, 30
FIRST_PORT = 9300


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; what cannot be is one sentence and exit status 2."""
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"1 to {MOST_ROUNDS} (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cpus, help=f"of each server, 1 to {cpus} (default: %(default)s)")
    options = parser.parse_args(argv)
    for name, bound in (("rounds", MOST_ROUNDS), ("threads", cpus)):
        if not 1 <= getattr(options, name) <= bound:
            parser.error(f"--{name} {getattr(options, name)} is not between 1 and {bound}")
    return options


def measure(rounds: int, threads: int, folder: Path) -> Found:
    """Return the figures of so many rounds."""
    found, commands = Found(), servers.commands(folder, threads, max(WIDTHS))
    for number in range(rounds):
        with ExitStack() as stack:
            up: dict[Side, Server] = {}
            for side, (command, more) in commands.items():
                port = next(port for port in range(FIRST_PORT, FIRST_PORT + 300) if is_free("127.0.0.1", port))
                log = folder / f"{side.name.lower()}.log"
                up[side] = stack.enter_context(servers.running(side, command, more, port, log))
            asyncio.run(one_round(up, number, found))
        found.rounds += 1
    return found


async def one_round(up: dict[Side, Server], number: int, found: Found) -> None:
    """Ask every server at every width, with prompts that begin alike and with prompts that do not."""
    for width in WIDTHS:
        for shared in (True, False):
            mark = f"{number + 1}{'s' if shared else 'd'}{width}"
            samples: dict[Side, Sample] = {side: Sample() for side in up}
            # By turns, each side first as often as others: within seconds the machine's mood changes by ten per cent.
            for turn in range(max(len(up), max(WIDTHS) // width)):
                for side in order(number + turn):
                    seconds, asked = await clients(up[side], width, f"{mark}-{turn}", shared=shared)
                    samples[side].add(seconds, len(asked) * TOKENS, asked)
            for side, sample in samples.items():
                found.add(width, side, sample, shared=shared)
                print(f"bench-worker: {mark} {side}: {sample.rate:.1f} tokens/s", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print; exit 1 unless the goal is met."""
    options = read_options()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = measure(options.rounds, options.threads, Path(folder))
        except (BenchError, DeployError, OSError) as error:
            sys.exit(f"bench-worker: {error}")
    print(f"{found.table()}\n\n{found.line()}")
    sys.exit(not found.met)


if __name__ == "__main__":
    ending.quietly(main, "bench-worker")
