"""`make soak`: a real queen under steady traffic while workers die and come back; what grows, and what went wrong.

`python -m tests.faults.soak [--minutes N]` asks 50 times a second, every second one streamed, and kills workers of one
host after the other. It prints a table, and a line of JSON last. Exit status 1 unless every promise held.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx
import psutil

from tests.faults.queen.test_f_processes import ready
from tests.unit.queen.hosts import Host, hosts, release
from tests.unit.queen.units import Unit, unit, wait_until

MINUTES, LEAST_MINUTES, MOST_MINUTES = 20.0, 2.0, 24 * 60.0
REQUESTS_PER_SECOND = 50
KILL_SECONDS, LOOK_SECONDS, WARM_SECONDS = 95.0, 5.0, 100.0
PATIENCE = 60.0
NAMES = ("a", "b", "c", "d", "e", "f", "g")
"""So many that each has been well for more than ten minutes when it is killed again. Their hives try those that die
sooner after pauses of up to five minutes, as they promise, and with three hosts none was left to answer in the end."""

RSS_MIB_PER_MINUTE = 1.0
SPARE = 4
"""Descriptors and tasks that may be there more after the traffic than after the warming up."""

REST_SECONDS = 65.0
"""Longer than idle connections to workers are kept: what a peak left behind is gone then, and what leaked is not."""

FEW = 12
"""Requests at once after a rest; with their answers comes the look at idle connections."""

TOLD_PER_KILL = 40
"""More than a worker can have in flight: answers of half a second at 50 a second over seven workers, and a burst."""

COUNTER = """
import asyncio
import os
import sys
import threading
import time


def count():
    while True:
        time.sleep(1)
        tasks = getattr(asyncio.tasks, "_scheduled_tasks", None) or asyncio.tasks._all_tasks
        draft = {file!r} + ".new"
        with open(draft, "w") as file:
            file.write(str(len(tasks)))
        os.replace(draft, {file!r})


if "rbee_runtime.queen.serve" in sys.orig_argv:
    threading.Thread(target=count, daemon=True).start()
"""
"""The first code of the queen: nobody outside a process can count its tasks."""


class End(StrEnum):
    """How a request ended. `TOLD` is an error in OpenAI's form, in a stream or with `Retry-After`."""

    WHOLE = "whole"
    TOLD = "told"
    UNTOLD = "untold"


@dataclass(frozen=True)
class Look:
    """What the serving process held at a moment, in seconds from the start."""

    at: float
    rss: int
    fds: int
    threads: int
    tasks: int


@dataclass
class Found:
    """What happened until now."""

    ends: Counter[End] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    rests: list[Look] = field(default_factory=list)
    kills: int = 0


def end_of(status: int, text: str, *, stream: bool, retry_after: str = "") -> End:
    """Return how a request ended that got an answer."""
    if status != 200:
        return End.TOLD if status == 503 and retry_after and '"error"' in text else End.UNTOLD
    if not stream:
        return End.WHOLE if '"finish_reason"' in text else End.UNTOLD
    done, errors = text.endswith("data: [DONE]\n\n"), text.count('data: {"error"')
    return End.WHOLE if done and not errors else End.TOLD if errors == 1 and not done else End.UNTOLD


def slope(looks: Sequence[Look]) -> float:
    """Return by how many MiB a minute the memory grows: the line with the least squares."""
    times, sizes = [look.at / 60 for look in looks], [look.rss / 2**20 for look in looks]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    return sum((at - middle) * (size - mean) for at, size in zip(times, sizes, strict=True)) / spread


def growth(rests: Sequence[Look], read: Callable[[Look], int]) -> int:
    """Return how much more there is at the last rest than at the first."""
    return read(rests[-1]) - read(rests[0])


def judge(found: Found) -> dict[str, tuple[float, float]]:
    """Return what was seen and what is allowed, by name."""
    return {
        "untold errors": (found.ends[End.UNTOLD], 0),
        "told errors": (found.ends[End.TOLD], TOLD_PER_KILL * found.kills),
        "rss MiB/min": (round(slope(found.looks), 3), RSS_MIB_PER_MINUTE),
        "more fds": (growth(found.rests, lambda look: look.fds), SPARE),
        "more threads": (growth(found.rests, lambda look: look.threads), 0),
        "more tasks": (growth(found.rests, lambda look: look.tasks), SPARE),
    }


async def ask(client: httpx.AsyncClient, found: Found, number: int) -> None:
    """Ask once and note how it ended."""
    stream = number % 2 == 0
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": f"hi {number}"}]}
    try:
        answer = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        end, said = End.UNTOLD, f"{type(error).__name__} {error}"
    else:
        again = answer.headers.get("retry-after", "")
        end, said = end_of(answer.status_code, answer.text, stream=stream, retry_after=again), answer.text[-200:]
        said = f"{answer.status_code} {said}"
    found.ends[end] += 1
    if end is End.UNTOLD:
        found.wrong.append(said)


async def load(u: Unit, found: Found, seconds: float) -> None:
    """Ask at a steady rate for so long, and wait for every answer."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=u.url, headers=u.headers, timeout=PATIENCE, limits=limits) as client:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * REQUESTS_PER_SECOND)):
                await asyncio.sleep(begun + number / REQUESTS_PER_SECOND - time.monotonic())
                group.create_task(ask(client, found, number))


async def every(seconds: float, act: Callable[[], None]) -> None:
    """Act again and again until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        act()


def killer(made: Sequence[Host], found: Found) -> Callable[[], None]:
    """Return what kills the workers of one host after the other; the others serve."""

    def kill() -> None:
        for pid in made[found.kills % len(made)].pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found.kills += 1

    return kill


def looker(pid: int, tasks: Path) -> Callable[[], Look]:
    """Return what says what a process holds."""
    process, begun = psutil.Process(pid), time.monotonic()

    def look() -> Look:
        held = (process.memory_info().rss, process.num_fds(), process.num_threads(), int(tasks.read_text()))
        return Look(time.monotonic() - begun, *held)

    return look


def soak(seconds: float, folder: Path) -> Found:
    """Return what was seen in so many seconds."""
    served = {"source": "fake:tokens_per_s=40,tokens=20", "engine": "fake", "slots": 64, "each_host": True}
    declared = {"hives": [{"name": name} for name in NAMES], "models": [{"name": "m", **served}]}
    found, tasks = Found(), folder / "tasks"
    with unit(folder / "unit", declared) as u:
        u.python = str(release(folder, "0.1.0-aaaaaaaa", first=COUNTER.format(file=str(tasks))))
        main = u.start()
        with hosts(u, *NAMES) as made:
            for host in made:
                host.start(Path(sys.executable))
            wait_until(lambda: ready(u) == len(NAMES) and tasks.exists(), within=PATIENCE)
            asyncio.run(phases(u, found, seconds, killer(made, found), looker(main.child, tasks)))
    return found


async def phases(u: Unit, found: Found, seconds: float, kill: Callable[[], None], look: Callable[[], Look]) -> None:
    """Warm up, rest and look, ask for so long while workers die, rest and look again."""
    await traffic(u, found, WARM_SECONDS, [(KILL_SECONDS, kill)])
    found.rests.append(await rest(u, found, look))
    await traffic(u, found, seconds, [(KILL_SECONDS, kill), (LOOK_SECONDS, lambda: found.looks.append(look()))])
    found.rests.append(await rest(u, found, look))


async def rest(u: Unit, found: Found, look: Callable[[], Look]) -> Look:
    """Ask nothing for a while, then a few at once, and return what is held a moment later."""
    await asyncio.sleep(REST_SECONDS)
    async with httpx.AsyncClient(base_url=u.url, headers=u.headers, timeout=PATIENCE) as client:
        await asyncio.gather(*(ask(client, found, number) for number in range(FEW)))
    await asyncio.sleep(LOOK_SECONDS)
    return look()


async def traffic(u: Unit, found: Found, seconds: float, acts: Sequence[tuple[float, Callable[[], None]]]) -> None:
    """Ask for so long, and act beside it; an act that fails ends all."""
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(every(pause, act)) for pause, act in acts]
        await load(u, found, seconds)
        for task in beside:
            task.cancel()


def table(found: Found, verdicts: dict[str, tuple[float, float]]) -> str:
    """Return one line per promise for a person, and what went wrong."""
    head = f"{found.ends.total()} requests, {found.ends[End.WHOLE]} whole, {found.kills} workers killed"
    lines = [
        f"{name:<14} {seen:>10g}  at most {most:<6g} {'ok' if seen <= most else 'TOO MUCH'}"
        for name, (seen, most) in verdicts.items()
    ]
    return "\n".join([head, *lines, *found.wrong[:10]])


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 when every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    known = f"how long, {LEAST_MINUTES:g} to {MOST_MINUTES:g} (default: %(default)g)"
    parser.add_argument("--minutes", type=float, default=MINUTES, help=known)
    options = parser.parse_args(argv)
    if not LEAST_MINUTES <= options.minutes <= MOST_MINUTES:
        parser.error(f"--minutes {options.minutes:g} is not between {LEAST_MINUTES:g} and {MOST_MINUTES:g}")
    with tempfile.TemporaryDirectory(prefix="rbee-soak-") as folder:
        found = soak(options.minutes * 60, Path(folder))
    verdicts = judge(found)
    held = all(seen <= most for seen, most in verdicts.values())
    figures = {name.replace(" ", "_"): seen for name, (seen, _) in verdicts.items()}
    counts = {"minutes": options.minutes, "requests": found.ends.total(), "kills": found.kills}
    print(table(found, verdicts))
    print(json.dumps({"bench": "soak", "passed": held, **counts, **figures}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
