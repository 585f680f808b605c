"""The one task that owns workers: it looks, decides, acts, and looks again; everything else asks it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from rbee_runtime import logs
from rbee_runtime.config import HiveConfig
from rbee_runtime.devices import Scan
from rbee_runtime.errors import RbeeError, StateError
from rbee_runtime.hive import engines, fences, records
from rbee_runtime.hive.actions import Actions
from rbee_runtime.hive.decisions import Act, Decision, Scene, decide
from rbee_runtime.hive.desired import DesiredFile
from rbee_runtime.hive.disk import Disk
from rbee_runtime.hive.draining import DrainFlag
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.hive.journal import Journal
from rbee_runtime.hive.last_words import LastWords
from rbee_runtime.hive.launchers import Launcher, UnitStatus
from rbee_runtime.hive.ledger import Ledger
from rbee_runtime.hive.loading import Loads
from rbee_runtime.hive.memory import Memory
from rbee_runtime.hive.orders import Order
from rbee_runtime.hive.probes import Prober
from rbee_runtime.hive.recovery import Recovery
from rbee_runtime.hive.wording import wording
from rbee_runtime.link import Link
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources.credentials import Credentials
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import Desired, DesiredAck, WorkerSpec
from rbee_runtime.states import Observed

EAGER_SECONDS = 0.5
EAGER_SPELL = 10.0
"""After an action the launcher is asked more often for a while, because something is about to change."""


@dataclass(frozen=True)
class View:
    """One worker as of the last tick; `since` is when it came into its state."""

    decision: Decision
    status: UnitStatus | None
    wanted: WorkerSpec | None
    since: float


class Supervisor:
    """Owns desired document, records and actions. `watch` callbacks run after a tick that changed something.

    `devices` returns the latest scan, None before the first. `ticked` is when the last look at all workers ended,
    `took` how many seconds it took.
    """

    def __init__(
        self,
        config: HiveConfig,
        link: Link,
        launcher: Launcher,
        *,
        boot: str,
        clock: Callable[[], float],
        devices: Callable[[], Scan | None] = lambda: None,
    ) -> None:
        self._launcher = launcher
        self._boot = boot
        self._clock = clock
        self._event = asyncio.Event()
        self._requests: asyncio.Queue[Order] = asyncio.Queue()
        self.desired = DesiredFile(config.state_dir, fleet=config.fleet, hive=config.name)
        self._drain = DrainFlag(config.state_dir)
        self._records = records.Records(config.state_dir)
        self._actions = Actions(config, link, launcher, self._records, clock=clock)
        store = ModelStore(config.models_dir, config.store, holder=f"{config.fleet}-{config.name}")
        credentials = Credentials.read(config.link_dir or config.state_dir / "credentials")
        puller = Puller(store, credentials=credentials, link=link, clock=clock)
        self._fetching = Fetching(store, clock=clock, changed=self._look_at_disk, puller=puller)
        self._memory = Memory(config.state_dir, devices=devices, clock=clock)
        self._disk = Disk(config, self._fetching, clock=clock, host=lambda: engines.this_host(devices()))
        self._prober = Prober(link, clock=clock, changed=self._event.set)
        self._recovery = Recovery(self._records, self._actions, boot=boot)
        self._loads = Loads(clock)
        self._last_words = LastWords(launcher, self._records, changed=self._event.set)
        self._eager_until = 0.0
        self._trouble = ""
        self._seen: object = None
        self._journal = Journal()
        self._statuses: Mapping[str, UnitStatus] = {}
        self._watchers: list[Callable[[], None]] = []
        self.views: dict[str, View] = {}
        self.ticked: float | None = None
        self.took = 0.0
        self.reconciled = asyncio.Event()

    @property
    def ack(self) -> DesiredAck:
        """Return which document is followed."""
        return self.desired.ack()

    @property
    def prober(self) -> Prober:
        """Return the owner of the workers' health."""
        return self._prober

    @property
    def fetching(self) -> Fetching:
        """Return the owner of models on disk."""
        return self._fetching

    @property
    def engines(self) -> Mapping[str, Path | None]:
        """Return the engines that can be started here, and where each is."""
        return self._disk.engines

    @property
    def document(self) -> Desired | None:
        """Return the document that is followed."""
        return self.desired.document

    @property
    def draining(self) -> bool:
        """Say whether this host empties itself, or is empty because it was told to."""
        return self._drain.is_set

    @property
    def ledger(self) -> Ledger:
        """Return what each device's memory is taken for."""
        return self._memory.ledger

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """Return the workers that found a device broken, by device."""
        return fences.faults({worker: self._records[worker] for worker in self._records})

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return one sentence for everything that keeps the hive from its work now."""
        now = (self._trouble, self._records.trouble, self._disk.trouble, *fences.problems(self._memory.scan))
        return tuple(said for said in (*now, *self.unread) if said)

    @property
    def unread(self) -> tuple[str, ...]:
        """Return one sentence for each file of the state folder that is not followed."""
        found = (self.desired.trouble, *self._records.unread, self._memory.trouble)
        return tuple(said for said in found if said)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after each tick that changed a worker's state, why it is so, or the models."""
        self._watchers.append(callback)

    async def follow(self, document: Desired) -> DesiredAck:
        """Follow a newer document from now on, or raise StaleDesiredError or StateError and change nothing."""
        await self._ask(lambda: self._accept(document))
        return self.desired.ack()

    async def drain(self, drained: bool) -> None:
        """Empty this host of workers, or let it start them again; kept over restarts. StateError changes nothing."""
        await self._ask(lambda: self._drain.set(drained))

    async def _ask(self, order: Callable[[], object]) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(Order(order, answer))
        self._event.set()
        await answer

    @property
    def pids(self) -> list[int]:
        """Return the main processes of all workers that run, as of the last look."""
        return [status.pid for status in self._statuses.values() if status.alive and status.pid]

    async def look(self) -> None:
        """Learn which workers run, as scans of devices have to know whose memory is ours; `run` tells of trouble."""
        with contextlib.suppress(RbeeError, OSError):
            self._statuses = await self._launcher.list()

    async def run(self) -> None:
        """Supervise until cancelled; workers stay as they are then."""
        probing = asyncio.create_task(self._prober.run())
        try:
            while True:
                self._event.clear()
                self._answer_requests()
                await self._tick()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._event.wait()
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            await self._last_words.close()
            await self._disk.close()
            await self._fetching.close()

    async def stop_all(self, *, within: float) -> None:
        """Stop every worker once `run` has ended, and wait; the next hive starts none before the queen says so anew."""
        await self._actions.stop_all(within=within)
        self.desired.forget()

    def _answer_requests(self) -> None:
        while not self._requests.empty():
            self._requests.get_nowait().carry_out()

    def _accept(self, document: Desired) -> None:
        if self.desired.accept(document):
            self._disk.due()
            logs.info("desired_followed", epoch=document.epoch, revision=document.revision)

    def _look_at_disk(self) -> None:
        self._disk.due()
        self._event.set()

    def _pause(self) -> float:
        now = self._clock()
        pause = EAGER_SECONDS if now < self._eager_until else self._launcher.poll_seconds
        tries = [
            view.decision.record.next_try - now for view in self.views.values() if view.decision.record.next_try > now
        ]
        return max(0.05, min([pause, *tries]))

    async def _tick(self) -> None:
        begun = self._clock()
        try:
            statuses = await self._launcher.list()
            # Before the disk is looked at, which lets go of models that nobody seems to use.
            self._recovery.adopt(statuses)
            await self._read_disk(statuses)
            await self._reconcile(statuses)
        except (RbeeError, OSError) as error:
            # Nothing is known now, so nothing is done; workers go on.
            self._say(str(error))
            await self._only_look(str(error))
        else:
            self._say("")
            self.reconciled.set()
        # Trouble elsewhere is no reason for the watchdog to restart this process.
        self.ticked = self._clock()
        self.took = self.ticked - begun
        self._tell_watchers()

    async def _read_disk(self, statuses: Mapping[str, UnitStatus]) -> None:
        in_use = {self._records[worker].model for worker, status in statuses.items() if status.alive}
        if not self.reconciled.is_set():
            # Whoever runs has no record where that was lost, as long as the launcher cannot be asked.
            in_use |= self._actions.launched_models()
        await self._disk.read(self.desired.document, in_use)

    async def _only_look(self, said: str) -> None:
        """Show how workers are by their own answers; `said` is why nothing is done about it."""
        if not self.reconciled.is_set():
            self._statuses = self._recovery.presumed()
            await self._read_disk(self._statuses)
        document = self.desired.document
        wanted = {spec.id: spec for spec in document.workers} if document is not None else {}
        found = [self._undone(each, said) for each in decide(self._scene(document, self._statuses))]
        self._show(found, self._statuses, wanted)

    def _undone(self, decision: Decision, said: str) -> Decision:
        """Return what a decision is worth while the launcher cannot be asked."""
        worker = decision.worker
        status, shown = self._statuses.get(worker), self.views.get(worker)
        if self._records[worker].launched is not None and shown is not None and not (status and status.alive):
            # Started since the last list, of which nothing more is known.
            return shown.decision
        if decision.act is Act.NONE:
            return decision
        state = Observed.BACKOFF if decision.act is Act.START else decision.state
        return replace(decision, state=state, act=Act.NONE, said=said)

    def _say(self, said: str) -> None:
        if said and said != self._trouble:
            logs.warning("launcher_trouble", detail=said)
        elif self._trouble and not said:
            logs.info("launcher_answers")
        self._trouble = said

    async def _reconcile(self, statuses: Mapping[str, UnitStatus]) -> None:
        self._statuses = statuses
        document = self.desired.document
        wanted = {spec.id: spec for spec in document.workers} if document is not None else {}
        self._records.retry()
        self._measure(statuses)
        decisions = decide(self._scene(document, statuses))
        await self._act(decisions, wanted)
        self._show(decisions, statuses, wanted)

    def _measure(self, statuses: Mapping[str, UnitStatus]) -> None:
        self._recovery.complete(statuses, self._fetching.models, self._memory.need)
        held = self._on_record()
        self._memory.tick(statuses, held)
        self._loads.tick(statuses, held, health=self._prober.health, scan=self._memory.scan, ledger=self._memory.ledger)
        self._last_words.tick(held)

    def _scene(self, document: Desired | None, statuses: Mapping[str, UnitStatus]) -> Scene:
        held, models = self._on_record(), self._fetching.models
        specs = document.workers if document is not None else ()
        named = (*(spec.devices for spec in specs), *(record.devices for record in held.values()))
        devices, scan = frozenset(chain.from_iterable(named)), self._memory.scan
        return Scene(
            now=self._clock(),
            boot=self._boot,
            desired=document,
            records=held,
            statuses=statuses,
            health=dict(self._prober.health),
            models=models,
            engines=frozenset(self._disk.engines),
            unfit=self._disk.unfit,
            lost=fences.lost(scan, devices),
            unjudged=fences.unjudged(scan, devices),
            early=scan is not None and bool(scan.late),
            faults=fences.faults(held),
            ledger=self._memory.ledger,
            needs={spec.id: self._memory.need(spec, models.get(spec.model)) for spec in specs},
            loads=self._loads.held,
            refused=dict(self._actions.refused),
            credentials=self._actions.credentials,
            drained=self._drain.is_set,
            trouble=self._records.trouble,
            unseen=self._disk.trouble,
        )

    def _on_record(self) -> dict[str, records.WorkerRecord]:
        return {worker: self._records[worker] for worker in self._records}

    async def _act(self, decisions: Sequence[Decision], wanted: Mapping[str, WorkerSpec]) -> None:
        doing = [self._do(decision, wanted.get(decision.worker)) for decision in decisions]
        if any(decision.act not in {Act.NONE, Act.FORGET} for decision in decisions):
            self._eager_until = self._clock() + EAGER_SPELL
        await asyncio.gather(*(action for action in doing if action is not None))

    def _do(self, decision: Decision, wanted: WorkerSpec | None) -> Awaitable[None] | None:
        if decision.act is Act.FORGET:
            return self._actions.forget(decision.worker)
        self._records.put(decision.record)
        if decision.act is Act.STOP:
            return self._actions.stop(decision.worker, decision.said)
        if decision.act is Act.KILL:
            return self._actions.kill(decision.worker, decision.said)
        if decision.act is Act.START and wanted is not None:
            return self._start(decision, wanted)
        return None

    def _start(self, decision: Decision, wanted: WorkerSpec) -> Awaitable[None] | None:
        self._prober.drop(decision.worker)
        model = self._fetching.models[wanted.model]
        try:
            # Before any start is awaited, so that no two workers of one tick get the same port.
            started = self._actions.prepare(decision.record, wanted, model, self._disk.engines)
        except StateError:
            # No fault of the worker: it starts once the disk has taken what was to be written.
            return None
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
        self._journal.tell(decisions, now=now)
        for decision in decisions:
            worker = decision.worker
            old = before.get(worker)
            since = old.since if old is not None and old.decision.state is decision.state else now
            shown = replace(decision, record=self._records[worker])
            refused = self._actions.refused.get(worker, "")
            if decision.act is Act.FORGET:
                if not refused:
                    continue
                shown = replace(shown, said=f"it is not wanted any more and cannot be forgotten: {refused}")
            self.views[worker] = View(shown, statuses.get(worker), wanted.get(worker), since)
        self._prober.aim({worker: self._actions.url(view.decision.record.port) for worker, view in self._reachable()})

    def _reachable(self) -> Iterator[tuple[str, View]]:
        for worker, view in self.views.items():
            running = view.status is not None and view.status.alive
            if (running or view.decision.act is Act.START) and view.decision.record.port:
                yield worker, view

    def _tell_watchers(self) -> None:
        workers = [
            (worker, shown.state, wording(shown.state, shown.said), shown.record.port, shown.record.spec)
            for worker, shown in ((worker, view.decision) for worker, view in self.views.items())
        ]
        seen = (workers, self._fetching.reports, dict(self.engines), self.troubles, self.draining)
        if seen != self._seen:
            self._seen = seen
            for callback in self._watchers:
                callback()
