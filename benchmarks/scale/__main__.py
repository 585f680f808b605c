"""The queen before a large fleet: its share of a core, the time of one placement, its memory.

`python -m benchmarks.scale [--hives N] [--seconds S]` runs a queen as it is deployed on one core, and on another as
many hives as one process can be: over mutual TLS, with a certificate and heartbeats each, and five workers each. When
all are ready, models that nobody has loaded are asked for, others answer requests, workers start over, hosts are
drained and undrained, and somebody looks at the list of workers. Prints a table and a line of JSON; exit status 1
unless all goals are met.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvloop

from benchmarks import ending
from benchmarks.gateway import queen
from benchmarks.gateway.load import BenchError
from benchmarks.gateway.queen import Place
from benchmarks.gateway.running import Cores, Ports, cpu_of, pinned, started
from benchmarks.scale.hives import FLEET, name_of
from benchmarks.scale.results import Found, Verdict, lost_of, placements_of
from rbee_runtime import __version__, open_files
from tests.unit.certificates import Odd, issue_fleet

HIVES, MOST_HIVES = 1000, 2000
SECONDS, MOST_SECONDS = 90.0, 600.0
WORKERS_PER_HIVE, REPLICAS, COLD = 5, 25, 60
JOIN_SECONDS, CALM_SECONDS = 180.0, 10.0
ANSWERS_PER_SECOND = 20
RESTARTING = 10
"""So many workers may be starting over at any time."""

COLD_SECONDS, LIST_SECONDS, DRAIN_SECONDS = 0.8, 5.0, 10.0


@dataclass(frozen=True)
class Rig:
    """A queen and its hives that run."""

    client: httpx.AsyncClient
    control: str
    process: psutil.Process
    log: Path

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the queen."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        """Return the processor seconds that the queen took so far."""
        return sum(cpu_of(each.pid) for each in self.processes())

    def rss(self) -> float:
        """Return the MiB that the queen has."""
        return sum(float(each.memory_info().rss) for each in self.processes()) / 2**20


def fleet(count: int) -> dict[str, object]:
    """Return the fleet file: models that are kept up, as many as give each hive its workers, and others on demand."""
    base = {"source": "fake:", "engine": "fake", "slots": 8}
    kept = {"replicas_min": REPLICAS, "replicas_max": REPLICAS}
    models = [{"name": f"m{number}", **base, **kept} for number in range(count * WORKERS_PER_HIVE // REPLICAS)]
    cold = [{"name": f"cold{number}", **base, "replicas_min": 0} for number in range(COLD)]
    return {"hives": [{"name": name_of(number)} for number in range(count)], "models": [*models, *cold]}


def certificates(folder: Path, count: int) -> Path:
    """Issue what each host of the fleet has, each hive in a folder of its own."""
    names = [name_of(number) for number in range(count)]
    pki = issue_fleet(folder / "pki", FLEET, odd={f"{name}-own": Odd(f"rbee://{FLEET}/hive/{name}") for name in names})
    for name in names:
        (pki / name).mkdir()
        for shown, kept in (("ca.pem", "ca.pem"), ("hive.pem", f"{name}-own.pem"), ("hive.key", f"{name}-own.key")):
            (pki / name / shown).symlink_to(pki / kept)
    return pki


@contextlib.asynccontextmanager
async def running(folder: Path, count: int, found: Found) -> AsyncIterator[Rig]:
    """Run a queen and its hives for the block, from when every worker is ready."""
    cores, ports = Cores.of_this_machine(), Ports()
    pki = certificates(folder, count)
    port, link_port, hive_port, worker_port, control = ports.take(5)
    place = Place(folder / "queen", port, link_port, pki)
    key = queen.prepare(place, fleet(count), name=FLEET)
    serve = (sys.executable, "-m", "rbee_runtime.queen.main", "--config", str(place.settings))
    be_hives = (
        *(sys.executable, "-m", "benchmarks.scale.hives", "--queen-url", f"https://127.0.0.1:{link_port}"),
        *("--pki", str(pki), "--hives", str(count), "--port", str(hive_port)),
        *("--worker-port", str(worker_port), "--control", str(control)),
    )
    told = f"http://127.0.0.1:{control}/"
    os.sched_setaffinity(0, {cores.load})
    async with contextlib.AsyncExitStack() as stack:
        headers = {"authorization": f"Bearer {key}"}
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=place.url, headers=headers, trust_env=False, timeout=30)
        )

        async def ready() -> bool:
            return (await client.get("/ready")).status_code == 200

        async def hives_ready() -> bool:
            return (await client.get(told)).status_code == 200

        log = place.folder / "log"
        # A thousand certificates take a while to read; a queen that starts finds all hives there, as after an upgrade.
        fakes = started("hives", pinned(cores.load, be_hives), folder / "hives.log", hives_ready)
        await stack.enter_async_context(fakes)
        process = await stack.enter_async_context(started("queen", pinned(cores.gateway, serve), log, ready))
        began = time.monotonic()
        rig = Rig(client, told, process, log)
        await _joined(rig, count * WORKERS_PER_HIVE)
        found.join_s = time.monotonic() - began
        yield rig


async def _joined(rig: Rig, workers: int) -> None:
    seen: dict[str, int] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(JOIN_SECONDS):
            while seen.get("ready", 0) < workers - RESTARTING:
                await asyncio.sleep(0.5)
                seen = (await rig.client.get(rig.control)).json()
            while (ready := await _ready(rig)) < workers - RESTARTING:
                await asyncio.sleep(3)
                seen = {"ready as the queen sees it": ready}
            return
    raise BenchError(f"{workers} workers should be ready and are not: {seen}")


async def _ready(rig: Rig) -> int:
    shown = (await rig.client.get("/api/v1/models")).raise_for_status().json()
    return sum(model["ready"] for model in shown)


async def measure(rig: Rig, found: Found, seconds: float) -> None:
    """Note what the queen takes while the fleet is as it is on any day."""
    await asyncio.sleep(CALM_SECONDS)
    before, began, since = rig.cpu(), time.monotonic(), rig.log.stat().st_size
    most, opened = rig.rss(), await _connections(rig)
    tasks = [
        asyncio.create_task(each) for each in (_ask(rig, found), _load(rig, found), _list(rig, found), _drain(rig))
    ]
    while time.monotonic() - began < seconds:
        await asyncio.sleep(1)
        most = max(most, rig.rss())
        for task in tasks:
            if task.done():
                task.result()
    found.core_pct = 100 * (rig.cpu() - before) / (time.monotonic() - began)
    found.rss_mib = most
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with rig.log.open(errors="replace") as log:
        log.seek(since)
        told = log.read()
    found.placements, found.lost = placements_of(told), lost_of(told)
    found.connections = await _connections(rig) - opened


async def _connections(rig: Rig) -> int:
    return int((await rig.client.get(rig.control)).json()["connections"])


async def _ask(rig: Rig, found: Found) -> None:
    """Ask loaded models again and again."""
    for number in range(sys.maxsize):
        body = {"model": f"m{number % (found.workers // REPLICAS)}", "messages": [{"role": "user", "content": "hi"}]}
        found.answers.append(await _timed(rig, found, "POST", "/v1/chat/completions", body))
        await asyncio.sleep(1 / ANSWERS_PER_SECOND)


async def _load(rig: Rig, found: Found) -> None:
    """Have models loaded, each by who asks first, and unloaded once all were loaded."""
    async with asyncio.TaskGroup() as group:
        for number in range(sys.maxsize):
            name = f"cold{number % COLD}"
            if number >= COLD:
                await rig.client.post(f"/api/v1/models/{name}/unload")
                await asyncio.sleep(COLD_SECONDS)
            body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            group.create_task(_timed(rig, found, "POST", "/v1/chat/completions", body))
            await asyncio.sleep(COLD_SECONDS)


async def _list(rig: Rig, found: Found) -> None:
    while True:
        found.lists.append(await _timed(rig, found, "GET", "/api/v1/workers"))
        await asyncio.sleep(LIST_SECONDS)


async def _drain(rig: Rig) -> None:
    for number in range(sys.maxsize):
        name = name_of(7 * number % 100)
        for verb in ("drain", "undrain"):
            (await rig.client.post(f"/api/v1/hives/{name}/{verb}")).raise_for_status()
            await asyncio.sleep(DRAIN_SECONDS / 2)


async def _timed(rig: Rig, found: Found, method: str, path: str, body: object = None) -> float:
    began = time.monotonic()
    try:
        answer = await rig.client.request(method, path, json=body)
        found.failed += answer.status_code != 200
    except httpx.HTTPError:
        found.failed += 1
    return time.monotonic() - began


def environment() -> str:
    """Return what this machine is and how busy it was before."""
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} cores, Python {python}, rbee {__version__}, uvloop {uvloop.__version__}, load {load}"


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; what cannot be is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--hives", type=int, default=HIVES, help=f"50 to {MOST_HIVES} (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"20 to {MOST_SECONDS:g} (default: %(default)g)")
    options = parser.parse_args(argv)
    for name, least, most in (("hives", 50, MOST_HIVES), ("seconds", 20, MOST_SECONDS)):
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name} {getattr(options, name):g} is not between {least} and {most:g}")
    return options


async def run(found: Found, seconds: float, folder: Path) -> None:
    """Note all figures."""
    async with running(folder, found.hives, found) as rig:
        print(f"bench-scale: all workers ready after {found.join_s:.1f} s", file=sys.stderr, flush=True)
        await measure(rig, found, seconds)


def main() -> None:
    """Measure and print; exit 1 unless all goals are met."""
    options = read_options()
    open_files.allow_many()
    found = Found(options.hives, options.hives * WORKERS_PER_HIVE, load=os.getloadavg()[0])
    print(environment(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        try:
            uvloop.run(run(found, options.seconds, Path(folder)))
        except (BenchError, OSError) as error:
            sys.exit(f"bench-scale: {error}")
    print(f"{found.table()}\n{found.line()}")
    sys.exit(found.verdict is not Verdict.MET)


if __name__ == "__main__":
    ending.quietly(main, "bench-scale")
