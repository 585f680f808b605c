"""Run a worker for a test: in this process over HTTP or TLS, or as a process of its own."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec
from rbee_runtime.server import HttpServer, bind
from rbee_runtime.testing.fake_engine import parse_options
from rbee_runtime.worker import engines
from rbee_runtime.worker.app import build
from rbee_runtime.worker.engines import Engine
from rbee_runtime.worker.lifecycle import Phase, Worker
from rbee_runtime.worker.surface.shapes import Item

TOKEN = "throw-away"
MODEL = "org/fake:small"


def fake_launch(script: str = "", *, context: int = 64, slots: int = 1, port: int = 0) -> WorkerLaunch:
    """Return the spec of a fake worker on loopback."""
    options: dict[str, str | int | float | bool] = {**parse_options(script)}
    spec = WorkerSpec(id="fake-000001", model=MODEL, engine="fake", context=context, slots=slots, options=options)
    return WorkerLaunch(worker=spec, host="127.0.0.1", port=port, token=TOKEN)


@dataclass
class Served:
    """A worker in this process and a client with its token."""

    worker: Worker
    client: httpx.AsyncClient
    port: int

    def chat(self, **fields: object) -> dict[str, object]:
        """Return a request body."""
        return {"model": MODEL, "messages": [{"role": "user", "content": "hi there"}], **fields}

    async def ask(self, **fields: object) -> httpx.Response:
        """Return the whole answer."""
        return await self.client.post("/v1/chat/completions", json=self.chat(**fields))

    async def until(self, in_flight: int, seconds: float = 20.0) -> None:
        """Return when so many requests are in hand, or raise TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.worker.in_flight != in_flight:  # noqa: ASYNC110 - the product has no event for a test to wait on
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(
    script: str = "", *, link: Link | None = None, engine: Engine | None = None, **spec: int
) -> AsyncIterator[Served]:
    """Serve a fake engine, or the given one: load it, and close it in the end."""
    launch = fake_launch(script, **spec)
    worker = Worker(launch.worker, engine or engines.create(launch))
    await worker.engine.load(list[float]().append)
    worker.enter(Phase.READY)
    link = link or Link(Role.WORKER, "laptop", token=TOKEN)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(build(worker, link), tls=link.server_context(), drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    headers = {"x-rbee-token": TOKEN}
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as client:
            yield Served(worker, client, port)
    finally:
        worker.cut.set()
        server.should_exit = True
        await serving
        await worker.engine.close()


class Notices:
    """A stand-in for the service manager's end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.lines: list[str] = []

    async def until(self, line: str, seconds: float = 60.0) -> None:
        """Return when a notice holds `line`, or raise TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            while not any(line in seen for seen in self.lines):
                self.lines += (await loop.sock_recv(self._socket, 4096)).decode().splitlines()

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()


async def start_process(
    *arguments: str, environment: dict[str, str] | None = None, group: bool = False
) -> asyncio.subprocess.Process:
    """Start `rbee-worker` with these arguments, as a `group` as a terminal does."""
    entry = "from rbee_runtime.worker.main import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        entry,
        *arguments,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        process_group=0 if group else None,
    )


async def ended(process: asyncio.subprocess.Process, seconds: float = 60.0) -> tuple[int | None, str]:
    """Return exit status and stderr of a process that ends by itself; it is killed if it does not."""
    try:
        async with asyncio.timeout(seconds):
            _, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, errors.decode()


def write_spec(path: Path, launch: WorkerLaunch) -> Path:
    """Write a spec file as a hive does."""
    path.write_bytes(msgspec.json.encode(launch))
    return path


def event_of(item: Item) -> dict[str, Any]:
    """Return what an event of a stream says, written or not."""
    return json.loads(item.removeprefix(b"data: ")) if isinstance(item, bytes) else dict(item)
