"""The one task that owns workers: it looks, decides, acts, and looks again; everything else asks it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from rbee_runtime import logs
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import RbeeError
from rbee_runtime.hive import engines, records
from rbee_runtime.hive.actions import Actions
from rbee_runtime.hive.decisions import Act, Decision, Scene, basis, decide
from rbee_runtime.hive.desired import DesiredFile
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.hive.launchers import Launcher, UnitStatus
from rbee_runtime.hive.probes import Prober
from rbee_runtime.link import Link
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import Desired, DesiredAck, WorkerSpec

EAGER_SECONDS = 0.5
EAGER_SPELL = 10.0
"""After an action the launcher is asked more often for a while, because something is about to change."""

DISK_SECONDS = 10.0
"""Between looks at models and engines on disk, which only the deploy or a person changes."""

DISK_PATIENCE_SECONDS = 5.0
"""A network disk that hangs for longer must not keep the hive from watching its workers."""


@dataclass(frozen=True)
class View:
    """One worker as of the last tick; `since` is when it came into its state."""

    decision: Decision
    status: UnitStatus | None
    wanted: WorkerSpec | None
    since: float


class Supervisor:
    """Owns desired document, records and actions. `watch` callbacks run after a tick that changed something."""

    def __init__(
        self, config: HiveConfig, link: Link, launcher: Launcher, *, boot: str, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._launcher = launcher
        self._boot = boot
        self._clock = clock
        self._event = asyncio.Event()
        self._requests: asyncio.Queue[tuple[Desired, asyncio.Future[DesiredAck]]] = asyncio.Queue()
        self._desired = DesiredFile(config.state_dir, fleet=config.fleet, hive=config.name)
        self._records = records.Records(config.state_dir)
        self._actions = Actions(config, link, launcher, self._records, clock=clock)
        self._fetching = Fetching(ModelStore(config.models_dir), clock=clock, changed=self._look_at_disk)
        self._prober = Prober(link, clock=clock, changed=self._event.set)
        self._engines: Mapping[str, Path | None] = {}
        self._disk_due = 0.0
        self._disk_look: asyncio.Task[None] | None = None
        self._eager_until = 0.0
        self._trouble = ""
        self._seen: object = None
        self._watchers: list[Callable[[], None]] = []
        self.views: dict[str, View] = {}
        self.ticked: float | None = None
        self.reconciled = asyncio.Event()

    @property
    def ack(self) -> DesiredAck:
        """Return which document is followed."""
        return self._desired.ack()

    @property
    def prober(self) -> Prober:
        """Return the owner of the workers' health."""
        return self._prober

    @property
    def fetching(self) -> Fetching:
        """Return the owner of models on disk."""
        return self._fetching

    @property
    def engine_names(self) -> tuple[str, ...]:
        """Return the engines that can be started here."""
        return tuple(self._engines)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after each tick that changed a worker's state or the models."""
        self._watchers.append(callback)

    async def follow(self, document: Desired) -> DesiredAck:
        """Follow a newer document from now on, or raise StaleDesiredError or StateError and change nothing."""
        answer: asyncio.Future[DesiredAck] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait((document, answer))
        self._event.set()
        return await answer

    async def run(self) -> None:
        """Supervise until cancelled; workers stay as they are then."""
        probing = asyncio.create_task(self._prober.run())
        try:
            while True:
                self._event.clear()
                self._answer_requests()
                await self._tick()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._event.wait(), self._pause())
        finally:
            side = [probing, *([self._disk_look] if self._disk_look is not None else [])]
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)
            await self._fetching.close()

    async def stop_all(self, *, within: float) -> None:
        """Ask every worker to stop and wait for that; only once `run` has ended, which would start them again."""
        for worker, view in self.views.items():
            if view.status is not None and view.status.alive:
                stopped = msgspec.structs.replace(self._records[worker], stop_asked=self._clock())
                self._records.put(stopped)
                await self._actions.stop(worker, "the hive ends together with its workers")
        deadline = self._clock() + within
        while await self._any_alive():
            if self._clock() >= deadline:
                return
            await asyncio.sleep(EAGER_SECONDS / 5)

    async def _any_alive(self) -> bool:
        return any(status.alive for status in (await self._launcher.list()).values())

    def _answer_requests(self) -> None:
        while not self._requests.empty():
            document, answer = self._requests.get_nowait()
            try:
                if self._desired.accept(document):
                    self._disk_due = 0.0
                    logs.info("desired_followed", epoch=document.epoch, revision=document.revision)
            except RbeeError as error:
                refusal: RbeeError | None = error
            else:
                refusal = None
            if answer.cancelled():
                continue
            if refusal is not None:
                answer.set_exception(refusal)
            else:
                answer.set_result(self._desired.ack())

    def _look_at_disk(self) -> None:
        self._disk_due = 0.0
        self._event.set()

    def _pause(self) -> float:
        now = self._clock()
        pause = EAGER_SECONDS if now < self._eager_until else self._launcher.poll_seconds
        tries = [
            view.decision.record.next_try - now for view in self.views.values() if view.decision.record.next_try > now
        ]
        return max(0.05, min([pause, *tries]))

    async def _tick(self) -> None:
        try:
            statuses = await self._launcher.list()
            await self._read_disk()
            await self._reconcile(statuses)
        except (RbeeError, OSError) as error:
            # Nothing is known now, so nothing is done; workers go on.
            if str(error) != self._trouble:
                logs.warning("launcher_trouble", detail=error)
            self._trouble = str(error)
            return
        self._trouble = ""
        self.ticked = self._clock()
        self.reconciled.set()
        self._tell_watchers()

    async def _read_disk(self) -> None:
        """Take what is on disk into account, or go on with what was known if the disk hangs."""
        now = self._clock()
        if self._disk_look is None and now >= self._disk_due:
            self._disk_due = now + DISK_SECONDS
            self._disk_look = asyncio.create_task(self._look())
        if self._disk_look is not None:
            done, _ = await asyncio.wait({self._disk_look}, timeout=DISK_PATIENCE_SECONDS)
            for look in done:
                self._disk_look = None
                look.result()

    async def _look(self) -> None:
        document = self._desired.document
        await self._fetching.look(document.models if document is not None else ())
        self._engines = await asyncio.to_thread(engines.installed, self._config.engines_dir)

    async def _reconcile(self, statuses: Mapping[str, UnitStatus]) -> None:
        document = self._desired.document
        wanted = {spec.id: spec for spec in document.workers} if document is not None else {}
        self._recover(statuses)
        decisions = decide(self._scene(document, statuses))
        await self._act(decisions, wanted)
        self._show(decisions, statuses, wanted)

    def _scene(self, document: Desired | None, statuses: Mapping[str, UnitStatus]) -> Scene:
        return Scene(
            now=self._clock(),
            boot=self._boot,
            desired=document,
            records={worker: self._records[worker] for worker in self._records},
            statuses=statuses,
            health=dict(self._prober.health),
            models=self._fetching.models,
            engines=frozenset(self._engines),
            credentials=self._actions.credentials,
        )

    def _recover(self, statuses: Mapping[str, UnitStatus]) -> None:
        """Give running workers whose record is gone a new one, so that they can be reached and adopted."""
        for worker, status in statuses.items():
            launch = self._actions.launch_of(worker) if status.alive and not self._records[worker].spec else None
            if launch is not None:
                now = basis(self._scene(None, {}), launch.worker.model)
                self._records.put(records.recovered(launch, boot=self._boot, basis=now))

    async def _act(self, decisions: Sequence[Decision], wanted: Mapping[str, WorkerSpec]) -> None:
        doing = [self._do(decision, wanted.get(decision.worker)) for decision in decisions]
        if any(decision.act is not Act.NONE for decision in decisions):
            self._eager_until = self._clock() + EAGER_SPELL
        await asyncio.gather(*(action for action in doing if action is not None))

    def _do(self, decision: Decision, wanted: WorkerSpec | None) -> Awaitable[None] | None:
        if decision.act is Act.FORGET:
            return self._actions.forget(decision.worker)
        self._records.put(decision.record)
        if decision.act is Act.STOP:
            return self._actions.stop(decision.worker, decision.said)
        if decision.act is Act.START and wanted is not None:
            return self._start(decision, wanted)
        return None

    def _start(self, decision: Decision, wanted: WorkerSpec) -> Awaitable[None] | None:
        self._prober.drop(decision.worker)
        model = self._fetching.models[wanted.model]
        try:
            # Before any start is awaited, so that no two workers of one tick get the same port.
            started = self._actions.prepare(decision.record, wanted, model, self._engines)
        except RbeeError as error:
            self._actions.failed(decision.record, error)
            return None
        return self._actions.start(started)

    def _show(
        self,
        decisions: Sequence[Decision],
        statuses: Mapping[str, UnitStatus],
        wanted: Mapping[str, WorkerSpec],
    ) -> None:
        before, now = self.views, self._clock()
        self.views = {}
        for decision in decisions:
            worker = decision.worker
            old = before.get(worker)
            since = old.since if old is not None and old.decision.state is decision.state else now
            if old is None or old.decision.state is not decision.state:
                logs.info("worker_state", worker=worker, state=decision.state, detail=decision.said)
            shown = replace(decision, record=self._records[worker])
            if decision.act is not Act.FORGET:
                self.views[worker] = View(shown, statuses.get(worker), wanted.get(worker), since)
        self._prober.aim({worker: self._actions.url(view.decision.record.port) for worker, view in self._reachable()})

    def _reachable(self) -> Iterator[tuple[str, View]]:
        for worker, view in self.views.items():
            running = view.status is not None and view.status.alive
            if (running or view.decision.act is Act.START) and view.decision.record.port:
                yield worker, view

    def _tell_watchers(self) -> None:
        workers = [
            (worker, view.decision.state, view.decision.record.port, view.decision.record.spec)
            for worker, view in self.views.items()
        ]
        seen = (workers, self._fetching.reports, self.engine_names)
        if seen != self._seen:
            self._seen = seen
            for callback in self._watchers:
                callback()
