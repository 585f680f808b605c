"""Programs on one core each: start them, hear what the mock workers saw, read what they cost, end them."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import psutil

from benchmarks.gateway.load import BenchError, Target
from rbee_runtime.hive.worker_ports import is_free

WORKERS = 8
START_SECONDS = 120.0
"""LiteLLM imports for a quarter of a minute."""

END_SECONDS = 20.0
FIRST_PORT, LAST_PORT = 9400, 9900


@dataclass(frozen=True)
class Cores:
    """Which core is whose."""

    gateway: int
    load: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Return two cores; raise BenchError where there is one."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise BenchError("two processor cores are needed: one for the gateway, one for workers and clients")
        return cls(gateway=usable[-1], load=usable[0])


def pinned(core: int, command: Sequence[str]) -> tuple[str, ...]:
    """Return a command that keeps a program, with all that it starts, on a core."""
    return ("taskset", "--cpu-list", str(core), *command)


def shown(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Return a command as a shell would take it."""
    return shlex.join((*(f"{name}={value}" for name, value in env.items()), *command))


class Ports:
    """Gives each port once, from the `first` one on."""

    def __init__(self, first: int = FIRST_PORT) -> None:
        self._next = iter(range(first, LAST_PORT))

    def take(self, count: int = 1) -> tuple[int, ...]:
        """Return so many ports that are free."""
        free = (port for port in self._next if is_free("127.0.0.1", port))
        found = tuple(port for port, _ in zip(free, range(count), strict=False))
        if len(found) < count:
            raise BenchError(f"no {count} ports are free between {FIRST_PORT} and {LAST_PORT}")
        return found


@dataclass(frozen=True)
class Bench:
    """What all sides share."""

    cores: Cores
    ports: Ports
    folder: Path


def cpu_of(pid: int) -> float:
    """Return the processor seconds of all threads of a process, to the nanosecond: /proc/PID/stat has hundredths.

    Linux makes the number of this clock so (clock_getcpuclockid(3)).
    """
    return time.clock_gettime((~pid << 3) | 2)


def busy_of(core: int) -> float:
    """Return the seconds in which a core did anything, for whomever, or was taken from this machine."""
    times = psutil.cpu_times(percpu=True)[core]
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


@dataclass(frozen=True)
class Running:
    """A gateway that answers: whom to ask, the workers behind it, its process (None: nothing in between) and core."""

    target: Target
    workers: tuple[int, ...]
    process: psutil.Process | None = None
    log: Path | None = None
    core: int = 0

    def cpu(self) -> float:
        """Return the processor seconds of the process and all that it started."""
        if self.process is None:
            return 0.0
        return sum(cpu_of(each.pid) for each in (self.process, *self.process.children(recursive=True)))

    def shorten_log(self) -> None:
        """Forget what it wrote: a line per request fills a disk."""
        if self.log is not None:
            os.truncate(self.log, 0)


@contextlib.asynccontextmanager
async def started(
    name: str,
    command: Sequence[str],
    log: Path,
    ready: Callable[[], Awaitable[bool]],
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[psutil.Process]:
    """Run a program for the block, from when it is ready; raise BenchError if it does not become so."""
    print(f"{name}: {shown(command, env or {})}", flush=True)
    process = _start(command, log, env or {})
    try:
        await _until(name, process, log, ready)
        yield psutil.Process(process.pid)
    finally:
        await asyncio.to_thread(_end, process)


async def _until(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], Awaitable[bool]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while process.poll() is None:
                with contextlib.suppress(httpx.HTTPError, OSError):
                    if await ready():
                        return
                await asyncio.sleep(0.1)
    raise BenchError(f"{name} did not start: {_last_words(log)}")


def _start(command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Written at its end, so that it can be cut meanwhile.
    with log.open("ab") as out:
        return subprocess.Popen(
            command, env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def _last_words(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-5:]
    return " / ".join(line.strip() for line in lines)[-500:] or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Told(msgspec.Struct):
    """What the mock workers saw so far: requests by port, tokens sent, answers under way, the most since last told."""

    requests: dict[str, int]
    tokens: int
    open: int
    peak: int

    def on(self, port: int) -> int:
        """Return how many requests came on a port."""
        return self.requests.get(str(port), 0)


@dataclass(frozen=True)
class Workers:
    """The mock workers."""

    plain: tuple[int, ...]
    tls: tuple[int, ...]
    control: int

    async def told(self) -> Told:
        """Return what they saw."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.control)
        try:
            return msgspec.convert(json.loads(await reader.read()), Told)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def workers(bench: Bench, *, fleet: str, link_dir: Path) -> AsyncIterator[Workers]:
    """Run the mock workers for the block."""
    mock = Workers(bench.ports.take(WORKERS), bench.ports.take(WORKERS), *bench.ports.take())
    command = (
        *(sys.executable, "-m", "benchmarks.gateway.mock", "--plain", *map(str, mock.plain)),
        *("--tls", *map(str, mock.tls), "--link-dir", str(link_dir), "--fleet", fleet),
        *("--control", str(mock.control)),
    )

    async def ready() -> bool:
        return not (await mock.told()).open

    async with started("workers", pinned(bench.cores.load, command), bench.folder / "workers.log", ready):
        yield mock
