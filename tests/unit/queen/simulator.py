"""A fleet in virtual time: the real controller, lines and store, and hosts that behave as hives and drivers do.

A step is a second. Hosts follow their documents when they hear them, fetch, wait their turn on a card, load, serve,
let requests end, and give memory back late. They crash, are cut off, have slow disks and strangers on their cards.
After each change of what is assigned the promises of `Promises` are checked; a broken one is an AssertionError.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rbee_runtime.config import FleetFile, FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.protocol import DeviceReport, FetchReport, Heartbeat, ModelReport, WorkerReport, WorkerSpec
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.lines import Lines, SlotLease
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.placement import drafted
from rbee_runtime.queen.records import Assignment, Scope
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.writes import Writes
from rbee_runtime.states import ExitReason, FetchState, Intent, Observed
from tests.unit.queen.states import GIB, Clock, numbered

QUEUE_WAIT = 60.0
BEAT_SECONDS = 5.0
TICKS = 4
"""How often tasks get their turn in a step: a lease that is handed on wakes the next one."""


@dataclass(frozen=True)
class Nature:
    """What a model is really like: bytes on disk and on its card, seconds of its load, whether it ever starts."""

    size: int = GIB
    need: int = 2 * GIB
    load: float = 5.0
    broken: bool = False


@dataclass
class Process:
    """A worker on a host; `until` is when it comes into its next state."""

    spec: WorkerSpec
    need: int
    state: Observed = Observed.BACKOFF
    until: float = 0.0
    said: str = ""
    reason: ExitReason | None = None

    @property
    def alive(self) -> bool:
        return self.state in {Observed.STARTING, Observed.READY, Observed.DRAINING}


@dataclass
class Host:
    """One host: its cards in bytes, what is on its disk, and what is wrong with it now."""

    name: str
    cards: Mapping[str, int]
    natures: Mapping[str, Nature]
    up: bool = True
    connected: bool = True
    slow: float = 1.0
    late: float = 1.0
    foreign: int = 0
    processes: dict[str, Process] = field(default_factory=dict)
    files: dict[str, float] = field(default_factory=dict)
    leaving: list[tuple[str, int, float]] = field(default_factory=list)
    wanted: dict[str, WorkerSpec] = field(default_factory=dict)
    beaten: float = -BEAT_SECONDS
    told: object = None

    def taken(self, card: str) -> int:
        """Return what processes hold on a card."""
        alive = sum(each.need for each in self.processes.values() if each.alive and card in each.spec.devices)
        return alive + sum(size for device, size, _ in self.leaving if device == card)

    def crash(self) -> None:
        """Lose power: every process and its memory are gone, the disk stays."""
        self.up = False
        self.processes, self.leaving = {}, []

    def live(self, now: float, flights: Mapping[str, int], step: float) -> None:
        """Do what a hive does in a step."""
        self.leaving = [each for each in self.leaving if each[2] > now]
        for name in {spec.model for spec in self.wanted.values()}:
            self.files[name] = min(self.natures[name].size, self.files.get(name, 0.0) + step * GIB / 2 / self.slow)
        for worker, spec in self.wanted.items():
            self.processes.setdefault(worker, Process(spec, self.natures[spec.model].need))
        for worker, process in list(self.processes.items()):
            self._move(worker, process, now, flights.get(worker, 0))

    def _move(self, worker: str, process: Process, now: float, flights: int) -> None:
        if worker not in self.wanted:
            process.state = Observed.DRAINING if process.alive else process.state
            if not flights or not process.alive:
                self._end(worker, now)
        elif process.state is Observed.STARTING and now >= process.until:
            if self.natures[process.spec.model].broken:
                process.state, process.until = Observed.CRASH_LOOP, now + 300
            else:
                process.state = Observed.READY
        elif process.state in {Observed.BACKOFF, Observed.FETCHING, Observed.CRASH_LOOP} and now >= process.until:
            self._start(process, now)

    def _end(self, worker: str, now: float) -> None:
        process = self.processes.pop(worker)
        if process.alive:
            self.leaving += [(card, process.need, now + self.late) for card in process.spec.devices]

    def _start(self, process: Process, now: float) -> None:
        nature, cards = self.natures[process.spec.model], process.spec.devices
        others = [
            each for each in self.processes.values() if each is not process and set(cards) & set(each.spec.devices)
        ]
        if self.files.get(process.spec.model, 0.0) < nature.size:
            process.state = Observed.FETCHING
        elif any(each.state in {Observed.STARTING, Observed.DRAINING} for each in others):
            process.state, process.said, process.reason = Observed.BACKOFF, "waits its turn", None
        elif any(self.cards[card] - self.foreign - self.taken(card) < process.need for card in cards):
            process.state, process.said = Observed.BACKOFF, "waits for memory"
            process.reason = ExitReason.OUT_OF_MEMORY
        else:
            process.state, process.until = Observed.STARTING, now + nature.load * self.slow

    def report(self, flights: Mapping[str, int], epoch: int) -> Heartbeat:
        """Return the heartbeat of this moment."""
        whole = {name for name, done in self.files.items() if done >= self.natures[name].size}
        fetches = {name: done for name, done in self.files.items() if name not in whole}
        return Heartbeat(
            hive=self.name,
            incarnation="1",
            url=f"http://{self.name}:8600",
            epoch=epoch,
            revision=0,
            version="0.1.0",
            engines=("fake",),
            devices=tuple(self._card(card) for card in self.cards),
            models=tuple(ModelReport(name=name, size=self.natures[name].size) for name in sorted(whole)),
            fetches=tuple(
                FetchReport(name=name, state=FetchState.FETCHING, done=int(done)) for name, done in fetches.items()
            ),
            workers=tuple(self._worker(worker, flights) for worker in sorted(self.processes)),
        )

    def _card(self, card: str) -> DeviceReport:
        used = self.foreign + self.taken(card)
        return DeviceReport(id=card, kind="cuda", name="card", total=self.cards[card], used=used, foreign=self.foreign)

    def _worker(self, worker: str, flights: Mapping[str, int]) -> WorkerReport:
        process = self.processes[worker]
        serves = process.state is Observed.READY
        return WorkerReport(
            id=worker,
            model=process.spec.model,
            spec=process.spec.digest(),
            wanted=process.spec.digest(),
            state=process.state,
            address="127.0.0.1",
            port=9000,
            slots=process.spec.slots,
            in_flight=flights.get(worker, 0),
            detail=process.said if process.state is Observed.BACKOFF else "",
            last_exit=process.reason if process.state is Observed.BACKOFF else None,
            memory=dict.fromkeys(process.spec.devices, process.need) if serves else {},
            need=process.need if process.state is not Observed.FETCHING else 0,
        )


@dataclass
class Flight:
    """A request on a worker, until a moment; `queen` is the life of the queen that has its lease."""

    lease: SlotLease
    until: float
    queen: int


@dataclass(eq=False)
class Request:
    """A client: when it asked, and what it got ("" while it waits)."""

    model: str
    seconds: float
    asked: float
    task: asyncio.Task[None] | None = None
    outcome: str = ""

    def leave(self) -> None:
        """Hang up."""
        self.outcome = "left"
        if self.task is not None:
            self.task.cancel()


class World:
    """Hosts, a queen and clients; `loads` counts the loads of each model that hosts began."""

    def __init__(self, directory: Path, declared: FleetFile, hosts: list[Host]) -> None:
        self.clock = Clock()
        self.hosts = {host.name: host for host in hosts}
        self.declared = declared
        self.requests: list[Request] = []
        self._open: list[Request] = []
        self.flights: list[Flight] = []
        self.loads: Counter[str] = Counter()
        self.evicted = 0
        self.life = 0
        self._left: list[Lines] = []
        self.directory = directory
        self._seen: dict[str, Assignment] = {}
        self._ever: set[str] = set()
        self._ids = numbered()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "fleet.yaml").write_text(declared.model_dump_json())
        self._start()

    def _start(self) -> None:
        self.life += 1
        self.store = Store(self.directory)
        writes = Writes(self.store)
        self.keys = Keys(self.store)
        self.controller = Controller(
            store=self.store,
            writes=writes,
            fleet=FleetSource(self.directory / "fleet.yaml", self.store),
            keys=self.keys,
            # Hosts hear of documents from the simulation; nothing is sent.
            documents=Documents("test", self.life, cast("Any", None), written=writes.settled),
            scheme="http",
            clock=self.clock,
            new_id=self._ids,
        )
        self.lines = Lines(self.controller, self.controller.roster, queue_wait=QUEUE_WAIT, clock=self.clock)
        self.lines.doubt = self.controller.doubt
        self.lines.wanted = self.controller.want
        self.controller.waiting = self.lines.waiting
        self.controller.on_change = self._changed
        if self.life == 1:
            self._key = self.keys.create("test", [Scope.INFER], ("*",))[0].id
        self._seen = dict(self.controller.assignments)

    def close(self) -> None:
        self.store.close()

    def restart_queen(self) -> None:
        """Let another queen take over; who waited is told to ask again, answers that run go on."""
        self.lines.leave()
        self.store.close()
        self.controller.on_change = self.lines.changed
        self._left.append(self.lines)
        self._start()

    def ask(self, model: str, seconds: float = 1.0) -> Request:
        """Have a client ask; its answer takes so many seconds."""
        request = Request(model, seconds, self.clock.now)
        request.task = asyncio.create_task(self._serve(request))
        self.requests.append(request)
        self._open.append(request)
        return request

    async def _serve(self, request: Request) -> None:
        life, lines = self.life, self.lines
        try:
            lease = await lines.lease(Ask(self._key, request.model))
        except RequestError as error:
            request.outcome = f"{error.status} {error.code}: {error}"
        else:
            request.outcome = lease.worker
            self.flights.append(Flight(lease, self.clock.now + request.seconds, life))

    def on(self) -> dict[str, int]:
        """Return how many requests each worker has."""
        return dict(Counter(flight.lease.worker for flight in self.flights))

    async def step(self, seconds: float = 1.0) -> None:
        """Let time pass, everybody act, and look at the promises."""
        self.clock.now += seconds
        self._end_flights()
        for host in self.hosts.values():
            self._host(host, seconds)
        self.controller.reconcile()
        for lines in (*self._left, self.lines):
            lines.sweep()
        for _ in range(TICKS):
            await asyncio.sleep(0)
        self._check_waits()

    async def run(self, seconds: float, step: float = 1.0) -> None:
        """Take steps for so long."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.step(step)

    def _host(self, host: Host, seconds: float) -> None:
        if not host.up:
            return
        if host.connected:
            document = self.controller.documents.document(host.name)
            if document.revision or document.epoch == self.life:
                host.wanted = {spec.id: spec for spec in document.workers}
        before = {worker for worker, process in host.processes.items() if process.state is Observed.STARTING}
        host.live(self.clock.now, self.on(), seconds)
        for worker, process in host.processes.items():
            if process.state is Observed.STARTING and worker not in before:
                self.loads[process.spec.model] += 1
        for card, total in host.cards.items():
            assert host.taken(card) <= total, f"{host.name} {card} holds more than it has"
        told = [(worker, process.state, process.said) for worker, process in host.processes.items()]
        if host.connected and (told != host.told or self.clock.now - host.beaten >= BEAT_SECONDS):
            host.told, host.beaten = told, self.clock.now
            self.controller.heartbeat(host.report(self.on(), self.life))

    def _end_flights(self) -> None:
        serving = {w for host in self.hosts.values() if host.up for w, p in host.processes.items() if p.alive}
        for flight in list(self.flights):
            dead = flight.lease.worker not in serving
            if dead or flight.until <= self.clock.now:
                self.flights.remove(flight)
                flight.lease.settle(answered=not dead, reached=not dead)
                flight.lease.release()

    def _changed(self) -> None:
        """Look at the promises whenever something else is assigned."""
        now, before = self.controller.assignments, self._seen
        self._seen = dict(now)
        leased = {flight.lease.worker for flight in self.flights if flight.queen == self.life}
        for worker in before.keys() - now.keys():
            assert worker not in leased, f"{worker} was released with a request on it"
            self.evicted += 1
        # One that a drain let go and that its host never heard of is taken back, where it runs.
        added = [now[worker] for worker in now.keys() - self._ever]
        self._ever |= now.keys()
        if added:
            self._check_room(added)
            self._check_numbers()
        self.lines.changed()

    def _check_room(self, added: list[Assignment]) -> None:
        """Look that the ledger is never negative: nothing is placed where it does not fit beside what is promised."""
        situation = self.controller.situation()
        draft = drafted(situation)
        for entry in added:
            accounts = draft.accounts(situation.hives[entry.hive])
            for device in entry.spec.devices:
                account = accounts[device]
                assert account.reserved <= account.capacity, f"{entry.id}: {account.explain()}"

    def _check_numbers(self) -> None:
        """Look for double loads: of each model as many count as are wanted, and never more than its maximum."""
        situation = self.controller.situation()
        draft = drafted(situation)
        for model in self.declared.models:
            counted = [entry for entry in draft.counted(model) if entry.id not in situation.retiring]
            wanted = len(self.hosts) if model.each_host else situation.wanted.get(model.name, model.replicas_min)
            assert len(counted) <= max(wanted, model.replicas_min), f"{model.name}: {counted} for {wanted}"

    def _check_waits(self) -> None:
        """Look that every waiter is answered: nobody waits longer than for a load and a slot, twice."""
        waits = {model.name: model.load_wait for model in self.declared.models}
        self._open = [request for request in self._open if not request.outcome]
        for request in self._open:
            limit = 2 * (waits[request.model] + QUEUE_WAIT) + 10
            assert request.outcome or self.clock.now - request.asked <= limit, f"{request} waits for ever"


@contextmanager
def world(models: list[FleetModel], hosts: list[Host]) -> Iterator[World]:
    """Give a world whose database is in memory, where there is a place for that."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    declared = FleetFile.model_validate(
        {"hives": [{"name": host.name} for host in hosts], "models": [each.model_dump() for each in models]}
    )
    made = World(directory / "state", declared, hosts)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


async def calm(it: World, *, within: float = 1200.0) -> None:
    """Mend everything and let time pass until nobody waits and nothing runs, or fail."""
    for host in it.hosts.values():
        host.up = host.connected = True
        host.slow, host.foreign = 1.0, 0
        if it.controller.membership.members[host.name].record.drained:
            it.controller.set_drained(host.name, drained=False)
    end = it.clock.now + within
    while it.flights or any(not request.outcome for request in it.requests):
        assert it.clock.now < end, "the fleet does not come to rest"
        await it.step(2.0)


def placed(it: World, model: str) -> list[Assignment]:
    """Return the workers of a model that are wanted where they are."""
    entries = it.controller.assignments.values()
    return [each for each in entries if each.spec.model == model and each.intent is Intent.PLACED]


def live(it: World) -> bool:
    """Say whether every host is heard."""
    return all(it.controller.membership.presence(name) is Presence.LIVE for name in it.hosts)


Step = Callable[[World], None]
