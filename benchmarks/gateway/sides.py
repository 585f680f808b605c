"""All gateways, up at the same time, each on the same core; a peer that this machine cannot have is left out."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import environments
from benchmarks.gateway import distribution, hive, peers, queen, running
from benchmarks.gateway.answers import WHOLE
from benchmarks.gateway.load import BenchError, Target
from benchmarks.gateway.results import Found, Side
from benchmarks.gateway.running import Bench, Running, Workers, pinned, started
from rbee_deploy import pins
from rbee_deploy.errors import DeployError
from tests.unit.certificates import issue_fleet


@dataclass(frozen=True)
class Installed:
    """A peer that is there: the folder or the program that it is, and what it calls its version."""

    path: Path
    version: str


@dataclass(frozen=True)
class Peer:
    """A peer that can be started."""

    target: Target
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def installed(found: Found) -> dict[Side, Installed]:
    """Return the peers that this machine has or can get; note their versions, and why others are absent."""
    there: dict[Side, Installed] = {}
    for side, get in _GET.items():
        try:
            there[side] = get()
        except (DeployError, OSError) as error:
            found.absent[side] = " ".join(str(error).split())
        else:
            found.versions[side] = there[side].version
    return there


def environment(name: str) -> Installed:
    """Return the environment of a peer by its name, made if it is not there; raise DeployError if it cannot be."""
    requirements = f"bench-{name}.txt"
    return Installed(environments.made(name, requirements), pins.only(pins.read(requirements), name).version)


def _nginx() -> Installed:
    program = distribution.nginx()
    return Installed(program, distribution.version(program))


_GET: Mapping[Side, Callable[[], Installed]] = {
    Side.VLLM_ROUTER: lambda: environment("vllm-router"),
    Side.LITELLM: lambda: environment("litellm"),
    Side.NGINX: _nginx,
}


def peer(side: Side, path: Path, bench: Bench, workers: Sequence[int]) -> Peer:
    """Write a peer's settings before these workers and return how it is started."""
    port, metrics_port = bench.ports.take(2)
    target = Target(side, port)
    if side is Side.VLLM_ROUTER:
        return Peer(target, peers.vllm_router(path, port, metrics_port, workers))
    settings = bench.folder / f"{side}.conf"
    if side is Side.NGINX:
        settings.write_text(peers.nginx_settings(port, workers, bench.folder))
        return Peer(target, peers.nginx(path, settings))
    settings = settings.with_suffix(".yaml")
    settings.write_text(peers.litellm_settings(workers))
    target = Target(side, port, (peers.MASTER_KEY,), exact=False)
    return Peer(target, peers.litellm(path, port, settings), peers.LITELLM_ENV)


@contextlib.asynccontextmanager
async def up(
    there: Mapping[Side, Installed], found: Found, bench: Bench
) -> AsyncIterator[tuple[Workers, dict[Side, Running]]]:
    """Run the mock workers and all gateways for the block; note which peers did not start."""
    link_dir = issue_fleet(bench.folder / "pki", queen.FLEET, names={"hive": hive.NAME})
    sides: dict[Side, Running] = {}
    async with contextlib.AsyncExitStack() as stack:
        mock = await stack.enter_async_context(running.workers(bench, fleet=queen.FLEET, link_dir=link_dir))
        for side in (Side.QUEEN, Side.QUEEN_TLS, Side.AGAIN):
            behind, credentials = (mock.tls, link_dir) if side is Side.QUEEN_TLS else (mock.plain, None)
            sides[side] = await stack.enter_async_context(queen.serving(side, bench, behind, credentials))
        for side, each in there.items():
            made = peer(side, each.path, bench, mock.plain)
            try:
                sides[side] = await stack.enter_async_context(_running(made, bench, mock.plain))
            except BenchError as error:
                found.absent[side] = str(error)
        sides[Side.DIRECT] = Running(Target(Side.DIRECT, mock.plain[0]), mock.plain[:1])
        yield mock, sides


@contextlib.asynccontextmanager
async def _running(made: Peer, bench: Bench, workers: Sequence[int]) -> AsyncIterator[Running]:
    target = made.target
    head, _, body = next(next(target.clients(WHOLE))).partition(b"\r\n\r\n")
    lines = (line.split(": ") for line in head.decode().split("\r\n")[1:])
    headers = dict(line for line in lines if len(line) == 2)
    async with httpx.AsyncClient(trust_env=False, timeout=10, headers=headers) as client:

        async def ready() -> bool:
            url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
            return (await client.post(url, content=body)).status_code == 200

        log = bench.folder / f"{target.name}.log"
        command = pinned(bench.cores.gateway, made.command)
        async with started(target.name, command, log, ready, made.env) as process:
            yield Running(target, tuple(workers), process, log, bench.cores.gateway)
