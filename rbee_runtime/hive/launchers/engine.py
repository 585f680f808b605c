"""Workers as containers of an engine, whichever it is: ownership by labels, deadlines, and nobody else's touched."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rbee_runtime import logs
from rbee_runtime.config import ContainerSettings
from rbee_runtime.errors import LauncherError, NoLogError
from rbee_runtime.hive.launchers import UnitStatus, engine_logs, handover, networks
from rbee_runtime.hive.launchers.containers import (
    STOP_SECONDS,
    ContainerPlan,
    EngineFacts,
    Owner,
    Place,
    Seen,
    container_name,
    plan,
    refused_limits,
    removed,
    status_of,
)
from rbee_runtime.hive.launchers.unchanged import LastAnswer
from rbee_runtime.protocol import WorkerLaunch

LOOK_SECONDS = 10.0
"""An engine answers a list in milliseconds; one that is silent for longer is reported, not waited for."""

MAKE_SECONDS = 60.0
"""Making and starting a container takes about a second, and many start at once when a host boots."""

CALLS_AT_ONCE = 4
REPEAT_SECONDS = 1.0
"""The first process of a container does not get a SIGTERM that it has no handler for yet, so a stop is said again."""

T = TypeVar("T")


class Engine(Protocol):
    """What a container engine is asked; blocking, thread-safe, each call within MAKE_SECONDS, raising LauncherError."""

    name: str
    socket: Path

    def facts(self) -> EngineFacts:
        """Return what this engine can do here."""

    def find(self, owner: Owner) -> list[Seen]:
        """Return the containers of the owner's hive that are in any state; may return others' too."""

    def inspect(self, container: str) -> Mapping[str, Any] | None:
        """Return the engine's description of a container by name or id, None if there is none."""

    def advice(self, image: str) -> str:
        """Return the sentence about an image that is not on this host."""

    def has_image(self, image: str) -> bool:
        """Say whether an image is on this host."""

    def network(self, network: str, callers: tuple[str, ...]) -> networks.Network | None:
        """Return the network of that name beside one that `make_network` would make, None if there is none."""

    def make_network(self, network: str, labels: Mapping[str, str], callers: tuple[str, ...]) -> None:
        """Make a network without a way to the internet, in which callers' addresses get answers."""

    def remove_network(self, network: str) -> None:
        """Remove a network that no container uses."""

    def run(self, planned: ContainerPlan, facts: EngineFacts) -> None:
        """Make and start a container."""

    def ask_stop(self, container: str, seconds: int) -> None:
        """Have the engine end a container, by force after so many seconds; does not wait for that."""

    def remind(self, container: str) -> None:
        """Send SIGTERM to a container once more; one that has ended is fine."""

    def remove(self, container: str) -> None:
        """Remove a container that has ended; one that is gone is fine."""


@dataclass(frozen=True)
class Surroundings:
    """What of the hive's settings matters to its containers."""

    owner: Owner
    settings: ContainerSettings
    folder: Path
    readable: tuple[Path, ...]
    callers: tuple[str, ...]


class ContainerLauncher:
    """Starts, stops and lists the containers of one hive."""

    poll_seconds = 2.0

    def __init__(
        self,
        connect: Callable[[], Engine],
        around: Surroundings,
        *,
        stop_seconds: int = STOP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._around = around
        self._stop_seconds = stop_seconds
        self._clock = clock
        self._last = LastAnswer(clock)
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="containers")
        self._connecting, self._networking = threading.Lock(), threading.Lock()
        self._engine: Engine | None = None
        self._known: dict[str, tuple[str, UnitStatus]] = {}
        self._starting: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._warned: tuple[str, ...] = ()

    async def list(self) -> Mapping[str, UnitStatus]:
        """Return every worker of this hive that has a container of this boot."""
        known = self._last.get()
        if known is not None:
            return known
        return self._last.keep(await self._call(self._list, LOOK_SECONDS, "list its workers"))

    async def start(self, worker: str, launch_file: Path, spec: str) -> None:
        """Start a worker in a new container, unless its name is taken by one that runs or is not ours."""
        self._starting.add(worker)
        self._stopping.pop(worker, None)
        try:
            await self._call(lambda: self._start(worker, launch_file, spec), MAKE_SECONDS, f"start worker {worker}")
        finally:
            self._starting.discard(worker)
            self._last.drop()

    async def stop(self, worker: str) -> None:
        """Ask the engine to end a worker, by force once its drain time is over."""
        try:
            await self._call(lambda: self._stop(worker), LOOK_SECONDS, f"stop worker {worker}")
        finally:
            self._last.drop()

    async def kill(self, worker: str) -> None:
        """Have the engine end a worker at once."""
        try:
            await self._call(lambda: self._kill(worker), LOOK_SECONDS, f"kill worker {worker}")
        finally:
            self._last.drop()

    async def forget(self, worker: str) -> None:
        """Remove the container of a worker that has ended, and what it was handed."""
        try:
            await self._call(lambda: self._forget(worker), LOOK_SECONDS, f"remove the container of worker {worker}")
        finally:
            self._last.drop()

    async def logs(self, worker: str, lines: int) -> str:
        """Return the last lines of the container's log."""
        async with contextlib.aclosing(await self._read_log(worker, lines, follow=False)) as read:
            return "\n".join([line async for line in read])

    async def follow(self, worker: str, lines: int) -> AsyncGenerator[str, None]:
        """Yield the last lines and then each new one until the container ends."""
        async with contextlib.aclosing(await self._read_log(worker, lines, follow=True)) as read:
            async for line in read:
                yield line

    async def _read_log(self, worker: str, lines: int, *, follow: bool) -> engine_logs.Lines:
        found, socket = await self._call(lambda: self._log_of(worker), LOOK_SECONDS, f"read the log of worker {worker}")
        return engine_logs.read(socket, found, lines, follow=follow)

    async def _call(self, work: Callable[[], T], seconds: float, purpose: str) -> T:
        call = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.wait_for(call, seconds)
        except TimeoutError:
            raise LauncherError(f"cannot {purpose}: the container engine gave no answer in {seconds:g} s") from None
        except (LauncherError, OSError) as error:
            raise LauncherError(f"cannot {purpose}: {error}") from error
        except Exception as error:  # a surprise of some client library must not end the hive
            raise LauncherError(f"cannot {purpose}: the engine's answer is not understood: {error!r}") from error

    def _open(self) -> Engine:
        with self._connecting:
            if self._engine is None:
                self._engine = self._connect()
            return self._engine

    def _list(self) -> dict[str, UnitStatus]:
        engine, owner = self._open(), self._around.owner
        # Before the engine is asked: what is started meanwhile is in its answer, or still in `_starting`.
        handed = handover.workers(self._around.folder) - self._starting
        seen = [each for each in engine.find(owner) if owner.owns(each.labels) and each.labels.get("rbee.worker")]
        statuses = {worker: removed(worker) for worker in handed - {each.labels["rbee.worker"] for each in seen}}
        for each in seen:
            worker = each.labels["rbee.worker"]
            if each.labels.get("rbee.boot") != owner.boot and each.state not in {"running", "paused", "stopping"}:
                # What a reboot ended says nothing about today.
                _tidy(partial(self._clear, engine, each), worker)
                continue
            status = self._look(engine, each)
            if status is not None:
                statuses[worker] = status
            elif worker in handover.workers(self._around.folder) - self._starting:
                # Listed, and gone before its details were asked for; one that we forget is handed nothing any more.
                statuses.setdefault(worker, removed(worker))
        ids = {each.id for each in seen}
        self._known = {container: known for container, known in self._known.items() if container in ids}
        self._remind(engine, statuses)
        return statuses

    def _clear(self, engine: Engine, seen: Seen) -> None:
        engine.remove(seen.id)
        handover.drop(self._folder(seen.labels["rbee.worker"]))

    def _remind(self, engine: Engine, statuses: Mapping[str, UnitStatus]) -> None:
        alive = {worker for worker, status in statuses.items() if status.alive}
        self._stopping = {worker: asked for worker, asked in self._stopping.items() if worker in alive}
        for worker, asked in tuple(self._stopping.items()):
            if self._clock() - asked >= REPEAT_SECONDS:
                self._stopping[worker] = self._clock()
                _tidy(partial(engine.remind, container_name(worker)), worker)

    def _look(self, engine: Engine, seen: Seen) -> UnitStatus | None:
        """Return a container's worker; asks for its details only when the list shows another state than before."""
        worker = seen.labels["rbee.worker"]
        mark = f"{seen.state}/{worker in self._stopping}/{worker in self._starting}"
        known = self._known.get(seen.id)
        if known is not None and known[0] == mark:
            return known[1]
        found = engine.inspect(seen.id)
        if found is None:
            return None
        status = status_of(found, stopping=worker in self._stopping, starting=worker in self._starting)
        self._known[seen.id] = (mark, status)
        return status

    def _start(self, worker: str, launch_file: Path, spec: str) -> None:
        engine, around = self._open(), self._around
        launch = handover.read(launch_file)
        self._clear_name(engine, worker)
        facts = engine.facts()
        if facts.rootless:
            raise LauncherError(
                f"{engine.name} at {engine.socket} runs without root, and whose its ids are only a guard knows: have "
                f"rbee-deploy set it up by rootless=True, or set containers.socket to that of root's {engine.name}"
            )
        self._warn(engine, facts)
        folder = self._folder(worker)
        ids = handover.worker_ids()
        place = Place(around.readable, *ids, groups=handover.groups_of(around.readable))
        planned = plan(launch, around.owner.labels(worker, spec), around.settings, place, folder=folder, facts=facts)
        if not engine.has_image(planned.image):
            raise LauncherError(engine.advice(planned.image))
        self._ensure_network(engine, launch)
        handover.write(folder, launch, ids)
        engine.run(planned, facts)

    def _clear_name(self, engine: Engine, worker: str) -> None:
        """Make way for a worker's container by removing the dead one of its last start, and nothing else."""
        name = container_name(worker)
        found = engine.inspect(name)
        if found is None:
            return
        if not self._around.owner.owns(found["Config"].get("Labels") or {}):
            raise LauncherError(
                f"{engine.name} has a container called {name} that is not of this hive, and it is left alone; "
                f"rename it with `{engine.name} rename {name} NAME`, and the worker starts at the next try"
            )
        if status_of(found).alive:
            raise LauncherError(f"worker {worker} already runs; a second copy is not started")
        engine.remove(name)

    def _ensure_network(self, engine: Engine, launch: WorkerLaunch) -> None:
        network, callers = self._around.settings.network, self._around.callers
        # One start at a time: what another one is just making is not finished.
        with self._networking:
            found = engine.network(network, callers)
            if found is not None:
                if networks.usable(engine.name, network, found):
                    if not found.routed:
                        said = "it leads to other callers than this hive has, and is made again once it is empty"
                        logs.warning("container_network", network=network, detail=said)
                    return
                logs.warning("container_network", network=network, detail="it is not as wanted and is made again")
                engine.remove_network(network)
            engine.make_network(network, {networks.MARK: launch.fleet}, callers)

    def _stop(self, worker: str) -> None:
        engine = self._open()
        if self._own(engine, worker):
            self._stopping[worker] = self._clock()
            engine.ask_stop(container_name(worker), self._stop_seconds)

    def _kill(self, worker: str) -> None:
        engine = self._open()
        if self._own(engine, worker):
            engine.ask_stop(container_name(worker), 0)

    def _forget(self, worker: str) -> None:
        engine = self._open()
        found = self._own(engine, worker)
        if found and status_of(found).alive:
            raise LauncherError(f"worker {worker} still runs; stop it before it is forgotten")
        # In this order: whoever lists meanwhile must not take it for one that somebody else removed.
        handover.drop(self._folder(worker))
        if found:
            engine.remove(container_name(worker))

    def _log_of(self, worker: str) -> tuple[str, Path]:
        engine = self._open()
        if not self._own(engine, worker):
            raise NoLogError(f"worker {worker} has no container on this host, so there is no log of it")
        return container_name(worker), engine.socket

    def _own(self, engine: Engine, worker: str) -> Mapping[str, Any] | None:
        found = engine.inspect(container_name(worker))
        return found if found and self._around.owner.owns(found["Config"].get("Labels") or {}) else None

    def _folder(self, worker: str) -> Path:
        return self._around.folder / worker

    def _warn(self, engine: Engine, facts: EngineFacts) -> None:
        """Say once what this host cannot do for its workers."""
        said = []
        if refused := refused_limits(self._around.settings, facts):
            said.append(f"this host cannot limit {' and '.join(refused)} of containers")
        if not facts.spares:
            said.append(
                f"workers end whenever {engine.name} does: set live-restore to true in /etc/docker/daemon.json and run "
                f"`systemctl reload {engine.name}`"
            )
        for each in said:
            if each not in self._warned:
                logs.warning("container_engine", detail=each)
        self._warned = tuple(said)


def _tidy(action: Callable[[], None], worker: str) -> None:
    """Do what helps and is tried again at the next look; one container that refuses must not hide all the others."""
    try:
        action()
    except LauncherError as error:
        logs.warning("container_refuses", worker=worker, detail=error)
