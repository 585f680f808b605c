"""The gateways that rows are put to: the queen as she is deployed, vllm-router and LiteLLM as their users set them up.

Retries, breakers and cooldowns are those that each comes with (LiteLLM's two retries are those of its manual); what a
row needs of limits, each gets in its own settings.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.gateway import peers, queen, sides
from benchmarks.gateway.load import BenchError
from benchmarks.gateway.results import Side
from benchmarks.gateway.running import Bench, Cores, Ports, started
from rbee_deploy.errors import DeployError
from tests.faults.beside.workers import MODEL, Told

OURS = Side.QUEEN
OTHERS = (Side.VLLM_ROUTER, Side.LITELLM)
LINE = 32
"""Places in line for four slots; the queen has as many by herself."""

SLOTS = 64
FIRST_PORT = 9700
"""Beyond those of other tests that run meanwhile."""


@dataclass(frozen=True)
class Wants:
    """What a row needs: seconds that a worker may be silent, and requests at a time (None: as it comes)."""

    silence: float | None = None
    slots: int | None = None


@dataclass(frozen=True)
class Gateway:
    """A gateway that answers, its process and the workers behind it."""

    name: str
    port: int
    key: str
    process: psutil.Process
    workers: Sequence[Told]

    @property
    def client(self) -> httpx.AsyncClient:
        """Return a client with its key, as patient as a person."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        bounds = httpx.Limits(max_connections=None)
        url = f"http://127.0.0.1:{self.port}"
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=bounds, trust_env=False)

    @property
    def calls(self) -> int:
        """Return how many requests have reached workers."""
        return sum(len(each.calls) for each in self.workers)

    @property
    def all_processes(self) -> list[psutil.Process]:
        """Return its process and all that it started."""
        return [self.process, *self.process.children(recursive=True)]


@asynccontextmanager
async def serving(side: Side, workers: Sequence[Told], wants: Wants, folder: Path) -> AsyncIterator[Gateway]:
    """Run a gateway before these workers for the block, or raise BenchError or DeployError if that cannot be."""
    cores = sorted(os.sched_getaffinity(0))
    bench = Bench(Cores(gateway=cores[-1], load=cores[0]), Ports(FIRST_PORT), folder)
    async with (_queen if side is OURS else _peer)(side, workers, wants, bench) as gateway:
        yield gateway


@asynccontextmanager
async def _queen(side: Side, workers: Sequence[Told], wants: Wants, bench: Bench) -> AsyncIterator[Gateway]:
    silence = wants.silence
    more = {} if silence is None else {"first_byte_seconds": silence, "silence_seconds": silence}
    shape = queen.Shape((MODEL,), wants.slots or SLOTS, keys=1, more=more)
    async with queen.serving(side, bench, [each.port for each in workers], None, shape) as up:
        if up.process is None:
            raise AssertionError("a queen is a process")
        yield Gateway(side, up.target.port, up.target.keys[0], up.process, workers)


@asynccontextmanager
async def _peer(side: Side, workers: Sequence[Told], wants: Wants, bench: Bench) -> AsyncIterator[Gateway]:
    path = (await asyncio.to_thread(sides.environment, side.value.replace("_", "-"))).path
    (port,) = bench.ports.take()
    command, env, key, health = _SET_UP[side](path, port, [each.port for each in workers], wants, bench)

    async def ready() -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{port}{health}")).status_code == 200

    async with started(side, command, bench.folder / f"{side}.log", ready, env) as process:
        yield Gateway(side, port, key, process, workers)


SetUp = tuple[tuple[str, ...], dict[str, str], str, str]
"""A command, its environment, the key that clients need, the route that says whether it is ready."""


def vllm_router(path: Path, port: int, workers: Sequence[int], wants: Wants, bench: Bench) -> SetUp:
    """Return how vllm-router is started for a row."""
    command = peers.vllm_router(path, port, bench.ports.take()[0], workers)
    if wants.silence is not None:
        command += ("--request-timeout-secs", str(int(wants.silence)))
    if wants.slots is not None:
        command += ("--max-concurrent-requests", str(wants.slots), "--queue-size", str(LINE))
    return command, {}, "", "/health"


def litellm(path: Path, port: int, workers: Sequence[int], wants: Wants, bench: Bench) -> SetUp:
    """Write LiteLLM's settings for a row and return how it is started."""
    more: dict[str, object] = {}
    if wants.silence is not None:
        more |= {"timeout": wants.silence, "stream_timeout": wants.silence}
    if wants.slots is not None:
        more["max_parallel_requests"] = wants.slots
    settings = bench.folder / "litellm.yaml"
    settings.write_text(peers.litellm_settings(workers, models=(MODEL,), retries=2, each_more=more))
    return peers.litellm(path, port, settings), peers.LITELLM_ENV, peers.MASTER_KEY, "/health/liveliness"


_SET_UP: dict[Side, Callable[[Path, int, Sequence[int], Wants, Bench], SetUp]] = {
    Side.VLLM_ROUTER: vllm_router,
    Side.LITELLM: litellm,
}

ABSENT = (BenchError, DeployError, OSError)
"""Why a gateway of another make is not there."""
