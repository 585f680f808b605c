"""The hive's routes about what workers write: of one, or of all with the worker's id before each line."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rbee_runtime.errors import LauncherError, NoLogError
from rbee_runtime.hive import desired as documents
from rbee_runtime.hive.facts import Facts, accepts, flag, number
from rbee_runtime.hive.launchers import Launcher
from rbee_runtime.streams import SSE, Stream, begun

MAX_LINES = 2000
LINES = 100

NEW_SECONDS = 2.0
"""How soon the log of a worker that came later is followed, too."""

WAITING = 256
"""Lines that wait for a slow reader; then the logs are read more slowly."""


async def log(facts: Facts, request: Request) -> Response:
    """Return the end of what a worker wrote, or that and what it writes from now on."""
    worker = documents.check_worker_id(request.path_params["worker"])
    lines = number(request, "lines", default=LINES, most=MAX_LINES)
    try:
        if flag(request, "follow"):
            return await _stream(facts, request, facts.launcher.follow(worker, lines))
        return PlainTextResponse(await facts.launcher.logs(worker, lines))
    except LauncherError as error:
        if said := _unstarted(facts, worker):
            raise NoLogError(said) from error
        raise


def _unstarted(facts: Facts, worker: str) -> str:
    """Return why a worker has never run here, "" if it has or nobody knows."""
    view = facts.supervisor.views.get(worker)
    if view is None or view.decision.record.launched is not None or view.decision.record.last_exit is not None:
        return ""
    return f"worker {worker} wrote nothing, because it has not been started yet: {view.decision.said}"


async def logs(facts: Facts, request: Request) -> Response:
    """Return the end of what each worker of this host wrote, or that and what they write from now on."""
    lines = number(request, "lines", default=LINES, most=MAX_LINES)
    if flag(request, "follow"):
        return await _stream(facts, request, follow_all(facts.launcher, lambda: _workers(facts), lines))
    found = await asyncio.gather(*(_end(facts.launcher, worker, lines) for worker in _workers(facts)))
    return PlainTextResponse("".join(f"{line}\n" for part in found for line in part))


async def follow_all(
    launcher: Launcher, workers: Callable[[], Mapping[str, int | None]], lines: int, *, every: float = NEW_SECONDS
) -> AsyncGenerator[str, None]:
    """Yield the end of each worker's log and what is added, also of workers that come later, until it is closed.

    `workers` gives process ids, by which a log that ended with its container is known to have begun anew.
    """
    waiting: asyncio.Queue[str] = asyncio.Queue(WAITING)
    readers: dict[str, tuple[int | None, asyncio.Task[bool]]] = {}
    try:
        while True:
            for worker, pid in workers().items():
                if _is_unread(readers.get(worker), pid):
                    readers[worker] = (pid, asyncio.create_task(_pass_on(launcher, worker, lines, waiting)))
            async for line in _for_a_while(waiting, every):
                yield line
    finally:
        tasks = [task for _, task in readers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_unread(reader: tuple[int | None, "asyncio.Task[bool]"] | None, pid: int | None) -> bool:
    if reader is None:
        return True
    before, task = reader
    return task.done() and (pid not in (None, before) or not task.result())


async def _for_a_while(waiting: "asyncio.Queue[str]", seconds: float) -> AsyncGenerator[str, None]:
    deadline = asyncio.get_running_loop().time() + seconds
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout_at(deadline):
                line = await waiting.get()
            yield line


async def _pass_on(launcher: Launcher, worker: str, lines: int, waiting: "asyncio.Queue[str]") -> bool:
    """Pass a log on until it ends; say whether there was one."""
    try:
        async with aclosing(launcher.follow(worker, lines)) as found:
            async for line in found:
                await waiting.put(f"{worker}: {line}")
    except LauncherError:
        return False
    return True


async def _end(launcher: Launcher, worker: str, lines: int) -> list[str]:
    try:
        text = await launcher.logs(worker, lines)
    except LauncherError as error:
        return [f"{worker}: ({error})"]
    return [f"{worker}: {line}" for line in text.splitlines()]


def _workers(facts: Facts) -> dict[str, int | None]:
    views = sorted(facts.supervisor.views.items())
    return {worker: view.status.pid if view.status is not None else None for worker, view in views}


async def _stream(facts: Facts, request: Request, lines: AsyncGenerator[str, None]) -> Response:
    media, shape = (SSE, _as_event) if accepts(request, SSE) else ("text/plain", _as_line)
    return Stream(await begun(_shaped(lines, shape)), stopping=facts.stopping, media_type=media)


async def _shaped(lines: AsyncGenerator[str, None], shape: Callable[[str], bytes]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield shape(line)


def _as_line(line: str) -> bytes:
    return f"{line}\n".encode()


def _as_event(line: str) -> bytes:
    # To a reader of events a carriage return ends a line too; progress bars are full of them.
    shown = line.rstrip("\r").replace("\r", "\ndata: ")
    return f"data: {shown}\n\n".encode()
