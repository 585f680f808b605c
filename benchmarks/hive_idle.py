"""What a hive costs while thirty workers do nothing: processor time and memory of the hive process alone.

Real processes on loopback over mutual TLS: `rbee-hive` with the process launcher, workers of the fake engine, and a
queen that takes heartbeats. `python -m benchmarks.hive_idle`
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import ending
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.hive.worker_ports import is_free
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Desired, Heartbeat, HeartbeatAck, ModelSpec, WorkerSpec, decode, encode
from rbee_runtime.server import HttpServer, bind
from tests.unit.certificates import issue_fleet

FLEET = "bench"
MAX_CPU_PERCENT, MAX_RSS_MIB = 3.0, 120.0
MOST_WORKERS, MOST_SECONDS = 400, 3600.0
"""Each worker is a process that needs a port of the range, and some 50 MiB."""

START_SECONDS = 300.0
"""Thirty interpreters start at the same time, maybe on one busy core."""

SETTLE_SECONDS = 15.0
"""After the last worker became ready the hive still looks more often for 10 s."""


@dataclass
class Queen:
    """Takes heartbeats and gives one document."""

    document: Desired
    url: str = ""
    ready: int = 0
    workers: int = -1
    hive_url: str = ""

    async def heartbeat(self, request: Request) -> Response:
        """Note how many workers there are."""
        beat = decode(await request.body(), Heartbeat)
        self.hive_url, self.workers = beat.url, len(beat.workers)
        self.ready = sum(worker.state == "ready" for worker in beat.workers)
        ack = HeartbeatAck(fleet=FLEET, epoch=self.document.epoch, revision=self.document.revision)
        return Response(encode(ack), media_type="application/json")


@contextlib.asynccontextmanager
async def serving(queen: Queen, pki: Path) -> AsyncIterator[None]:
    """Serve the queen's link on a free port of loopback."""
    app = Starlette(routes=[Route("/api/v1/hives/h1/heartbeat", queen.heartbeat, methods=["POST"])])
    listener = bind("127.0.0.1", 0)
    queen.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    server = HttpServer(app, tls=Link(Role.QUEEN, FLEET, pki).server_context(), drain_seconds=1)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def hive(folder: Path, queen: Queen, count: int) -> AsyncIterator[psutil.Process]:
    """Run the hive program; whatever it started is gone afterwards."""
    settings = {
        "fleet": FLEET,
        "name": "h1",
        "address": "127.0.0.1",
        "port": _free(1),
        "queen_url": queen.url,
        "link_dir": str(folder / "pki"),
        "launcher": "process",
        "worker_ports": [_free(count + 10), _free(count + 10) + count + 9],
        **{f"{name}_dir": str(folder / name) for name in ("state", "run", "models", "engines")},
    }
    (folder / "hive.yaml").write_text(yaml.safe_dump(settings))
    with (folder / "hive.log").open("wb") as log:
        command = [sys.executable, "-m", "rbee_runtime.hive.main", "--config", str(folder / "hive.yaml")]
        process = await asyncio.create_subprocess_exec(*command, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await _end_workers(folder / "state")


async def _end_workers(state: Path) -> None:
    launcher = ProcessLauncher(state)
    deadline = time.monotonic() + 30
    while alive := [status.worker for status in (await launcher.list()).values() if status.alive]:
        if time.monotonic() > deadline:
            sys.exit(f"these workers did not end: {', '.join(alive)}; see {state}")
        for worker in alive:
            await launcher.stop(worker)
        await asyncio.sleep(0.5)


def _free(count: int) -> int:
    """Return the first of so many free ports in a row, below the ephemeral ones."""
    starts = range(22000, 31000, count)
    return next(at for at in starts if all(is_free("127.0.0.1", at + offset) for offset in range(count)))


async def measure(process: psutil.Process, seconds: float) -> tuple[float, float]:
    """Return CPU in % of one core and the largest resident size in MiB."""
    started, before, largest = time.monotonic(), sum(process.cpu_times()[:2]), 0
    while time.monotonic() - started < seconds:
        largest = max(largest, process.memory_info().rss)
        await asyncio.sleep(1)
    spent = sum(process.cpu_times()[:2]) - before
    return 100 * spent / (time.monotonic() - started), largest / 2**20


async def run(count: int, seconds: float) -> tuple[float, float]:
    """Return the figures of a hive with `count` ready workers."""
    workers = tuple(WorkerSpec(id=f"w-{number}", model="m", engine="fake") for number in range(count))
    models = (ModelSpec(name="m", source="fake:"),)
    queen = Queen(Desired(fleet=FLEET, epoch=1, revision=1, hive="h1", workers=workers, models=models))
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as name:
        folder = Path(name)
        pki = issue_fleet(folder / "pki", FLEET, names={"hive": "h1"})
        async with serving(queen, pki), hive(folder, queen, count) as process:
            await _until(lambda: bool(queen.hive_url), process, folder)
            async with Link(Role.QUEEN, FLEET, pki).client(timeout=httpx.Timeout(30), peer=Role.HIVE) as client:
                answer = await client.put(f"{queen.hive_url}/api/v1/desired", content=encode(queen.document))
                answer.raise_for_status()
            await _until(lambda: queen.ready == count, process, folder)
            await asyncio.sleep(SETTLE_SECONDS)
            return await measure(process, seconds)


async def _until(condition: Callable[[], bool], process: psutil.Process, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        ended = process.status() == psutil.STATUS_ZOMBIE
        if ended or time.monotonic() > deadline:
            said = "ended" if ended else f"is not ready after {START_SECONDS:g} s"
            sys.exit(f"the hive {said}:\n{(folder / 'hive.log').read_text()[-2000:]}")
        await asyncio.sleep(0.2)


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; what cannot be is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hive_idle", description=__doc__)
    parser.add_argument("--workers", type=int, default=30, help="1 to 400 (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 1 <= options.workers <= MOST_WORKERS:
        parser.error(f"--workers {options.workers} is not between 1 and {MOST_WORKERS}")
    if not 1 <= options.seconds <= MOST_SECONDS:
        parser.error(f"--seconds {options.seconds:g} is not between 1 and {MOST_SECONDS:g}")
    return options


def main() -> None:
    """Print a table and a line of JSON; exit 1 if a figure is over its limit."""
    options = read_options()
    cpu, rss = asyncio.run(run(options.workers, options.seconds))
    print(f"{'hive with idle workers':<24}{'found':>10}{'limit':>10}")
    print(f"{'CPU, % of a core':<24}{cpu:>10.2f}{MAX_CPU_PERCENT:>10.2f}")
    print(f"{'resident memory, MiB':<24}{rss:>10.1f}{MAX_RSS_MIB:>10.1f}")
    found = {"bench": "hive-idle", "cpu_pct": round(cpu, 2), "rss_mib": round(rss, 1), "workers": options.workers}
    print(json.dumps(found))
    sys.exit(cpu >= MAX_CPU_PERCENT or rss >= MAX_RSS_MIB)


if __name__ == "__main__":
    ending.quietly(main, "bench-hive")
