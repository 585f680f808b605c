"""Containers of one hive: whose one is, is looked up at the engine before anything is done to it, by its whole id."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from rbee_runtime import logs, ports
from rbee_runtime.errors import GuardError
from rbee_runtime.guard import bounds, docker_words, folders, handing, views
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.calls import Create, Inspect, OfContainer, ReadLog, Remove, Start, Stop, Terminate
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.engine_socket import Answer, EngineSocket, OpenAnswer
from rbee_runtime.guard.networks import Networks
from rbee_runtime.guard.questions import Questions
from rbee_runtime.guard.worker_container import (
    Logs,
    WorkerContainer,
    check_image,
    container_name,
    owned_worker,
    worker_of,
)

SELINUX = Path("/sys/fs/selinux/enforce")
PER_PORT = 2
"""Containers: one that runs, and one that has ended and that nobody forgot yet."""


@dataclass(frozen=True)
class Found:
    """A container as the engine has it; `worker` is None for one that is not this hive's."""

    id: str
    name: str
    worker: str | None
    answer: Answer
    document: Mapping[str, Any]


class Containers:
    """Does what a hive asks of its containers, and keeps what they were handed as long as they are there."""

    def __init__(self, config: GuardConfig, account: Account, engine: EngineSocket, networks: Networks) -> None:
        self._config = config
        self._account = account
        self._engine = engine
        self._networks = networks
        self._questions = Questions(config, account, labelled=SELINUX.exists())
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def answer(self, call: OfContainer) -> Answer:
        """Do what a call asks; GuardError."""
        if isinstance(call, Create):
            return await self._create(call.wanted)
        if isinstance(call, Remove):
            return await self._remove(call)
        if isinstance(call, Inspect):
            known = await self._known(call.container)
            return known.answer if known.worker is not None else views.told(views.of_stranger(known.document))
        found = await self._own(call.container)
        match call:
            case Start():
                await self._check_start(found)
                question = self._questions.start(found.id)
            case Stop():
                question = self._questions.stop(found.id, call.seconds)
            case Terminate():
                question = self._questions.terminate(found.id)
        return await self._engine.ask(question)

    @contextlib.asynccontextmanager
    async def log(self, call: ReadLog) -> AsyncGenerator[OpenAnswer, None]:
        """Give the log of an own container as it is written; GuardError."""
        found = await self._own(call.container)
        question = self._questions.log(found.id, call.lines, follow=call.follow)
        async with self._engine.stream(question) as opened:
            yield opened

    async def sweep(self) -> None:
        """Remove what workers without a container were handed; GuardError while the engine is away."""
        for worker in await asyncio.to_thread(handing.workers, self._config.handed):
            async with self._lock(worker):
                await self._tidy(worker)

    async def _create(self, wanted: WorkerContainer) -> Answer:
        """Make a container that sees copies of what its worker is handed."""
        async with self._lock(wanted.worker):
            await asyncio.to_thread(self._check_rules)
            await self._networks.check()
            await self._check_limits(wanted)
            wanted = replace(wanted, shown=replace(wanted.shown, recursive=await self._reaches_below()))
            await asyncio.to_thread(folders.check, wanted, self._config)
            await self._check_image(wanted.image)
            await self._check_room(wanted)
            wanted = replace(wanted, logs=await self._logs(wanted))
            handover, handed = self._config.handover, self._config.handed
            place = await asyncio.to_thread(handing.copy, handover, handed, wanted.worker, self._account)
            try:
                answer = await self._engine.ask(self._questions.create(wanted, place))
            except GuardError:
                # Whether the engine made it is not known; if it did not, its files go.
                with contextlib.suppress(GuardError):
                    await self._tidy(wanted.worker)
                raise
            if answer.status == 201:
                logs.info("container_made", worker=wanted.worker, image=wanted.image, spec=wanted.identity.spec)
            else:
                await self._tidy(wanted.worker)
            return answer

    async def _check_start(self, found: Found) -> None:
        """Refuse a container that was made when something else was allowed, as before an upgrade of the settings."""
        await asyncio.to_thread(self._check_rules)
        made_by = views.labels_of(found.document).get(bounds.LABEL)
        if made_by != bounds.digest(self._config, self._account):
            raise GuardError(
                f"container {found.name} was made by other settings than this guard has: remove it, and make it anew"
            )
        # Somebody may have made another one of that name since.
        await self._networks.check()

    def _check_rules(self) -> None:
        """Refuse what would start a worker that may reach its host."""
        if self._config.rules is not None and not self._config.rules.exists():
            raise GuardError(
                "the rules that keep workers from this host are not in force: run `systemctl restart "
                f"{ports.NETWORK_UNIT}` here, and see what it says"
            )

    async def _remove(self, call: Remove) -> Answer:
        found = await self._find(call.container)
        if found is None:
            if (worker := worker_of(call.container)) is not None:
                async with self._lock(worker):
                    await self._tidy(worker)
            if not call.ignore:
                raise _absent(call.container)
            return views.told([])
        worker = _worker(found)
        async with self._lock(worker):
            answer = await self._engine.ask(self._questions.remove(found.id))
            if answer.status in {200, 204, 404}:
                logs.info("container_removed", worker=worker)
                await self._tidy(worker)
        return answer

    async def _tidy(self, worker: str) -> None:
        """Remove what a worker was handed, unless it has a container."""
        if await self._find(container_name(worker)) is None:
            await asyncio.to_thread(handing.drop, self._config.handed, worker)

    async def _check_room(self, wanted: WorkerContainer) -> None:
        """Check that the name is free, and that the hive has no more containers than it can have a use for."""
        if await self._find(wanted.name) is not None:
            raise GuardError(f"there is a container {wanted.name} already: remove it first", status=409)
        first, last = self._config.ports
        own = views.of_own(
            views.good(await self._engine.ask(self._questions.own_containers())).document(), self._config
        )
        if len(own) >= PER_PORT * (last - first + 1):
            raise GuardError(f"hive {self._config.hive} has {len(own)} containers: remove those that have ended")

    async def _check_image(self, image: str) -> None:
        """Check that an image brings no variables by which code of its own gets into what it should not."""
        found = views.an_object(views.good(await self._engine.ask(self._questions.look_at_image(image))).document())
        check_image(image, views.a_list(views.an_object(found.get("Config")).get("Env")))

    async def _check_limits(self, wanted: WorkerContainer) -> None:
        """Check that a limit is missing only where the engine cannot hold a container to it."""
        most = {"memory": self._config.memory_limit, "pids": self._config.pids_limit}
        given = {"memory": wanted.limits.memory, "pids": wanted.limits.pids}
        missing = {name for name, limit in most.items() if limit is not None and given[name] is None}
        if not missing:
            return
        for name in sorted(missing & views.limits_of(await self._info(), self._config.engine)):
            raise GuardError(f"worker {wanted.worker} has no limit of {name}: set one of at most {most[name]}")

    async def _logs(self, wanted: WorkerContainer) -> Logs:
        """Return where a worker's log goes, which is the engine's own choice only where that has bounds."""
        if wanted.logs is not Logs.USUAL:
            return wanted.logs
        return docker_words.bounded((await self._info()).get("LoggingDriver"))

    async def _reaches_below(self) -> bool:
        """Say whether the engine can keep read-only what is mounted below a folder; Podman cannot."""
        if self._config.engine is EngineKind.PODMAN:
            return False
        answer = views.good(await self._engine.ask(self._questions.version()))
        return docker_words.reaches_below(views.an_object(answer.document()))

    async def _info(self) -> Mapping[str, Any]:
        return views.an_object(views.good(await self._engine.ask(self._questions.info())).document())

    async def _own(self, container: str) -> Found:
        found = await self._known(container)
        _worker(found)
        return found

    async def _known(self, container: str) -> Found:
        found = await self._find(container)
        if found is None:
            raise _absent(container)
        return found

    async def _find(self, container: str) -> Found | None:
        """Return a container by its whole name or id; engines would take the beginning of an id for it as well."""
        answer = await self._engine.ask(self._questions.container(container))
        if answer.status == 404:
            return None
        document = views.an_object(views.good(answer).document())
        name, found = views.name_of(document), views.id_of(document)
        if container not in {name, found}:
            return None
        return Found(found, name, owned_worker(views.labels_of(document), name, self._config), answer, document)

    def _lock(self, worker: str) -> asyncio.Lock:
        return self._locks.setdefault(worker, asyncio.Lock())


def _worker(found: Found) -> str:
    if found.worker is None:
        raise GuardError(f"container {found.name} is not of this hive, and it is left alone")
    return found.worker


def _absent(container: str) -> GuardError:
    return GuardError(f"there is no container {container}", status=404)
