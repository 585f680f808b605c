"""One worker process: listen, load, serve, drain, leave."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from socket import socket

from rbee_runtime import logs
from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.link import Link
from rbee_runtime.notify import notify
from rbee_runtime.server import HttpServer
from rbee_runtime.worker.app import build
from rbee_runtime.worker.lifecycle import Phase, Worker

DRAIN_SECONDS = 180.0
"""How long requests in hand may take after SIGTERM; the unit's stop timeout is longer by a margin."""

LOAD_SECONDS = 1800.0
"""So long the service manager is told that a load goes on; whether a load is stuck the hive judges, by its progress."""

_EXTEND_SECONDS = 30.0
_CLOSE_SECONDS = 5


async def serve(worker: Worker, link: Link, listener: socket) -> None:
    """Serve until asked to stop; EngineLoadError, EngineCrashedError when the engine fails."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.ask_to_stop)
    server = HttpServer(build(worker, link), tls=link.server_context(), drain_seconds=_CLOSE_SECONDS)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        if await _load_unless_stopped(worker):
            _announce(worker, listener)
            async with _watched(worker):
                await worker.stop.wait()
        await _drain(worker)
    finally:
        server.should_exit = True
        await serving
    if worker.broken is not None:
        raise EngineCrashedError(f"the engine failed: {worker.broken}", reason=worker.broken.reason) from worker.broken


async def _load_unless_stopped(worker: Worker) -> bool:
    """Say whether the model is loaded; False when the process was asked to stop meanwhile."""
    load = asyncio.ensure_future(worker.engine.load(_reporter(worker)))
    stop = asyncio.ensure_future(worker.stop.wait())
    beat = asyncio.ensure_future(_keep_start_alive(worker))
    try:
        await asyncio.wait({load, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not load.done():
            return False
        load.result()
    finally:
        for task in (load, stop, beat):
            task.cancel()
        await asyncio.gather(load, stop, beat, return_exceptions=True)
    worker.enter(Phase.READY)
    return True


@contextlib.asynccontextmanager
async def _watched(worker: Worker) -> AsyncIterator[None]:
    """End the worker as soon as its engine is beyond use, whether a request finds out or not."""

    async def watch() -> None:
        worker.fail(await worker.engine.broken())

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _reporter(worker: Worker) -> Callable[[float], None]:
    def report(share: float) -> None:
        worker.progress = share

    return report


async def _keep_start_alive(worker: Worker) -> None:
    """Tell the service manager that the load goes on, which puts off a start timeout if its unit has one."""
    extension = f"EXTEND_TIMEOUT_USEC={int(_EXTEND_SECONDS * 1_000_000)}"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOAD_SECONDS):
            while True:
                notify(f"{extension}\nSTATUS=loading {worker.spec.model} ({worker.progress:.0%})")
                await asyncio.sleep(_EXTEND_SECONDS / 10)


def _announce(worker: Worker, listener: socket) -> None:
    port = listener.getsockname()[1]
    slots = f"{worker.engine.slots} slot{'' if worker.engine.slots == 1 else 's'}"
    status = f"serving {worker.spec.model} on port {port}, {worker.engine.context} tokens, {slots}"
    logs.info("ready", model=worker.spec.model, port=port, context=worker.engine.context, slots=worker.engine.slots)
    notify(f"READY=1\nSTATUS={status}")


async def _drain(worker: Worker) -> None:
    worker.enter(Phase.DRAINING)
    if worker.in_flight and worker.broken is None:
        logs.info("draining", requests=worker.in_flight, most_s=DRAIN_SECONDS, again="a second signal cuts them")
    notify(f"STOPPING=1\nSTATUS=finishing {worker.in_flight} requests")
    if worker.broken is None and not await worker.wait_idle(DRAIN_SECONDS):
        logs.warning("requests_cut", requests=worker.in_flight, after_s=DRAIN_SECONDS)
    worker.cut.set()
    await worker.wait_idle(_CLOSE_SECONDS)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.engine.close(), _CLOSE_SECONDS)
