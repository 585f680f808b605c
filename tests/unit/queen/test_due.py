"""A plan of what changed beside one of everything, in random histories of a small fleet: they say the same."""

import asyncio
import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from rbee_runtime.config import FleetExternal, FleetFile, FleetHive
from rbee_runtime.errors import RequestError
from rbee_runtime.protocol import Heartbeat, ModelReport, WorkerReport
from rbee_runtime.queen import placement, survey
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.explain import check_move
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.lifecycle import is_kept_up
from rbee_runtime.queen.placement import NewId, Plan, plan
from rbee_runtime.queen.planner import Planner
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.situation import Situation, index_of
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.writes import Writes
from rbee_runtime.states import ExitReason, Observed
from tests.unit.queen import test_histories
from tests.unit.queen.states import GIB, Clock, Fixture, cpu, fleet, gpu, model, numbered

HISTORIES = int(os.environ.get("RBEE_HISTORIES", "300"))
HOSTS = ("a", "b", "c", "d", "e")
SIZES: dict[int, Any] = {n: [{"name": "f", "sha256": "0" * 64, "size": int(n * GIB)}] for n in (1, 3, 6, 30)}
MODELS = (
    model("kept", files=SIZES[3], replicas_min=2, replicas_max=4, slots=2),
    model("many", files=SIZES[1], replicas_min=3, replicas_max=6, apart_from=["lone"]),
    model("cold", files=SIZES[6], replicas_min=0, replicas_max=2, idle_ttl=40),
    model("also", files=SIZES[3], replicas_min=0, slots=2),
    model("each", files=SIZES[1], each_host=True, labels={"zone": "x"}),
    model("lone", replicas_min=1, hosts=["c", "d"], keep_loaded=True),
    model("huge", files=SIZES[30], replicas_min=1),
    model("wide", files=SIZES[6], replicas_min=1, gpus=2, placement="pack"),
    model("cards", source="hf:org/repo", engine="llama-cpp", files=SIZES[3], replicas_min=0, labels={"zone": "y"}),
    model("named", replicas_min=0),
)
SERVER = FleetExternal(name="theirs", url="http://127.0.0.1:9", models={"named": "x"})
ZONES: dict[str, dict[str, str]] = {"a": {"zone": "x"}, "b": {"zone": "x"}, "c": {"zone": "y"}}
FILES = (
    FleetFile(hives=tuple(FleetHive(name=n, labels=ZONES.get(n, {})) for n in HOSTS), models=MODELS),
    FleetFile(hives=tuple(FleetHive(name=n) for n in HOSTS[:3]), models=MODELS[::-1], external=(SERVER,)),
    FleetFile(models=MODELS[1:]),
)
STATES = (
    *(Observed.READY,) * 4,
    Observed.STARTING,
    Observed.FETCHING,
    Observed.BACKOFF,
    Observed.CRASH_LOOP,
    None,
)


class Fleet:
    """A queen, and what its hosts would say now."""

    def __init__(self, directory: Path) -> None:
        self.clock, self.directory = Clock(), directory
        self.new_id, self.epoch = numbered(), 0
        self.said: dict[str, dict[str, Any]] = {name: {"builds": {"fake": "1"}} for name in HOSTS}
        self.lines: dict[str, int] = {}
        self.leases: list[tuple[str, int]] = []
        self.states: dict[str, Observed | None] = {}
        self.write(0)
        self.start()

    def start(self) -> None:
        self.store, self.epoch, self.leases = Store(self.directory), self.epoch + 1, []
        writes = Writes(self.store)
        self.controller = Controller(
            store=self.store,
            writes=writes,
            fleet=FleetSource(self.directory / "fleet.yaml", self.store),
            keys=Keys(self.store),
            documents=Documents("test", self.epoch, cast("Any", None), written=writes.settled),
            scheme="http",
            clock=self.clock,
            new_id=self.new_id,
        )
        self.controller.waiting = lambda name: self.lines.get(name, 0)

    def write(self, number: int) -> None:
        (self.directory / "fleet.yaml").write_text(FILES[number].model_dump_json())

    def entry(self, number: int) -> Assignment | None:
        entries = list(self.controller.assignments.values())
        return entries[number % len(entries)] if entries else None

    def report(self, name: str) -> Heartbeat:
        """Return what a host says: two cards of its own size, and its workers as they are."""
        said, sizes = self.said[name], {"a": 24, "b": 8, "c": 8, "d": 4, "e": 12}
        used = said.get("used", 0) * GIB
        cards = [gpu(f"{name}{n}", sizes[name] * GIB) for n in (0, 1)]
        workers = [self._worker(each, said) for each in self.controller.assignments.on(name)]
        return Heartbeat(
            hive=name,
            incarnation="1",
            url=f"http://{name}:8600",
            epoch=0,
            revision=0,
            version="0.1.0",
            engines=said.get("engines", ("fake", "llama-cpp")),
            builds=said["builds"],
            draining=said.get("draining", False),
            devices=tuple(type(each)(**{**_fields(each), "used": used, "foreign": used}) for each in cards),
            models=tuple(ModelReport(name=each, size=size) for each, size in said.get("disk", {}).items()),
            workers=tuple(each for each in workers if each is not None),
        )

    def _worker(self, entry: Assignment, said: dict[str, Any]) -> WorkerReport | None:
        state = self.states.get(entry.id, Observed.READY)
        if state is None:
            return None
        return WorkerReport(
            id=entry.id,
            model=entry.spec.model,
            spec=entry.spec.digest(),
            state=state,
            address="127.0.0.1",
            port=9000,
            slots=entry.spec.slots,
            in_flight=said.get("others", 0),
            last_exit=ExitReason.OUT_OF_MEMORY if state is Observed.BACKOFF else None,
            need=said.get("need", 0) * GIB,
        )


def _fields(each: Any) -> dict[str, Any]:
    return {name: getattr(each, name) for name in each.__struct_fields__}


def beat(it: Fleet, name: str, **said: Any) -> None:
    it.said[name] |= said
    it.controller.heartbeat(it.report(name))


def turn(it: Fleet, name: str, states: list[Observed | None]) -> None:
    """Have the workers of a host be in other states."""
    for number, entry in enumerate(it.controller.assignments.on(name)):
        it.states[entry.id] = states[number % len(states)]
    beat(it, name)


def passes(it: Fleet, seconds: float, heard: list[str]) -> None:
    """Let time pass; some hosts speak meanwhile."""
    it.clock.now += seconds
    for name in heard:
        beat(it, name)
    it.controller.reconcile()


def want(it: Fleet, name: str) -> None:
    if name in it.controller.fleet.models:
        it.controller.want(name)


def unload(it: Fleet, name: str) -> None:
    declared = it.controller.fleet.models.get(name)
    if declared is not None and not is_kept_up(declared):
        it.controller.lifecycle.unload(declared, waiting=0)
        it.controller.reconcile()


def move(it: Fleet, number: int) -> None:
    entry = it.entry(number)
    with contextlib.suppress(RequestError):
        if entry is not None:
            it.controller.lifecycle.move(check_move(it.controller, entry.id, ""), "")
            it.controller.reconcile()


def lease(it: Fleet, number: int) -> None:
    entry = it.entry(number)
    if entry is not None:
        it.leases.append((entry.id, it.controller.roster.take(entry.id)))


def give(it: Fleet, number: int) -> None:
    if it.leases:
        worker, taken = it.leases.pop(number % len(it.leases))
        it.controller.roster.give(worker, 1, taken)


def doubt(it: Fleet, number: int) -> None:
    entry = it.entry(number)
    if entry is not None:
        it.controller.doubt(entry.id)


def drain(it: Fleet, name: str, *, drained: bool) -> None:
    with contextlib.suppress(RequestError):
        it.controller.set_drained(name, drained=drained)


def follow(it: Fleet, number: int) -> None:
    """Have another fleet file, which the next tick finds."""
    it.write(number)
    it.controller.fleet.poll()


def again(it: Fleet) -> None:
    """Let another queen take over."""
    it.store.close()
    it.start()


HAPPENINGS: dict[str, Callable[..., None]] = {
    "turn": turn,
    "pass": passes,
    "used": lambda it, name, size: beat(it, name, used=size),
    "build": lambda it, name, build: beat(it, name, builds={"fake": build}),
    "engines": lambda it, name, engines: beat(it, name, engines=engines),
    "empties": lambda it, name, value: beat(it, name, draining=value),
    "others": lambda it, name, count: beat(it, name, others=count),
    "need": lambda it, name, size: beat(it, name, need=size),
    "disk": lambda it, name, disk: beat(it, name, disk=disk),
    "line": lambda it, name, count: it.lines.__setitem__(name, count),
    "drain": lambda it, name: drain(it, name, drained=True),
    "undrain": lambda it, name: drain(it, name, drained=False),
    "want": want,
    "unload": unload,
    "move": move,
    "lease": lease,
    "give": give,
    "doubt": doubt,
    "follow": follow,
    "again": again,
}
host, number = st.sampled_from(HOSTS), st.integers(0, 20)
name = st.sampled_from([each.name for each in MODELS])
TURN = st.tuples(st.just("turn"), host, st.lists(st.sampled_from(STATES), min_size=1, max_size=4))
PASS = st.tuples(st.just("pass"), st.sampled_from([0.0, 1.0, 5.0, 16.0, 31.0, 70.0]), st.lists(host, max_size=5))
LIVE = st.tuples(st.just("pass"), st.sampled_from([1.0, 5.0]), st.just(list(HOSTS)))
DISKS = st.dictionaries(name, st.sampled_from([GIB, 2 * GIB]), max_size=3)
EVENTS = st.one_of(
    *(TURN, TURN, TURN, PASS, LIVE, LIVE, LIVE),
    st.tuples(st.just("used"), host, st.integers(0, 9)),
    st.tuples(st.just("build"), host, st.sampled_from("12")),
    st.tuples(st.just("engines"), host, st.sampled_from([("fake",), ("llama-cpp",), ("fake", "llama-cpp")])),
    st.tuples(st.just("empties"), host, st.booleans()),
    st.tuples(st.just("others"), host, st.integers(0, 1)),
    st.tuples(st.just("need"), host, st.integers(0, 9)),
    st.tuples(st.just("disk"), host, DISKS),
    st.tuples(st.just("line"), name, st.integers(0, 4)),
    st.tuples(st.sampled_from(["drain", "undrain"]), host),
    *(st.tuples(st.sampled_from(["want", "want", "unload"]), name) for _ in range(2)),
    *(st.tuples(st.sampled_from(["lease", "give", "lease", "move", "doubt"]), number) for _ in range(2)),
    st.tuples(st.just("follow"), st.integers(0, 2)),
    st.tuples(st.just("again")),
)


@contextlib.contextmanager
def compared() -> Iterator[None]:
    """Have each plan of the queen compared with one of everything, and be said to be the same."""
    real = Planner.plan

    def beside(self: Planner, now: Situation, new_id: NewId) -> Plan | None:
        made: list[str] = []

        def noted(slug: str) -> str:
            made.append(new_id(slug))
            return made[-1]

        found = real(self, now, noted)
        ids, others = iter(made), numbered()
        _assert_indexed(now)
        whole = plan(replace(now, indexed=None), lambda slug: next(ids, None) or others(f"more-{slug}"))
        assert _news(now, found.changed if found is not None else {}) == _news(now, whole.changed)
        assert (self.rolling.retiring, found.evicted if found else {}) == (whole.retiring, whole.evicted)
        assert (self.reasons, frozenset(self.hopeful)) == (dict(whole.reasons), whole.hopeful)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "plan", beside)
        yield


def _assert_indexed(now: Situation) -> None:
    """See that what is kept up to date beside hives and workers is what looking at all of them says."""
    index, fresh, assigned = now.index, index_of(now.hives.values()), now.assigned
    assert ({model: there for model, there in index.disks.items() if there}, index.emptiest) == (
        fresh.disks,
        fresh.emptiest,
    )
    entries = list(assigned.values())
    counted = {hive: count for hive, count in assigned.counts().items() if count}
    assert counted == Counter(entry.hive for entry in entries)
    for name in {entry.spec.model for entry in entries}:
        assert assigned.summary(name) == Assigned(entries).summary(name)


def _news(now: Situation, changed: Any) -> dict[str, Assignment | None]:
    known = now.assigned
    return {worker: entry for worker, entry in changed.items() if known.get(worker) != entry}


async def lived(history: list[tuple[Any, ...]], directory: Path) -> None:
    """Live through a history."""
    it = Fleet(directory)
    try:
        passes(it, 1.0, list(HOSTS))
        for kind, *rest in history:
            HAPPENINGS[kind](it, *rest)
        passes(it, 1.0, list(HOSTS))
    finally:
        it.store.close()


@pytest.mark.parametrize("bounds", [(survey.SMALL, survey.ENOUGH), (1, 1)], ids=["small", "large"])
@settings(
    max_examples=HISTORIES // 2,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Shortening a history takes minutes; it is printed whole, and short as it is.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(history=st.lists(EVENTS, min_size=4, max_size=40))
def test_a_plan_of_what_changed_says_what_one_of_everything_would(
    history: list[tuple[Any, ...]], bounds: tuple[int, int]
) -> None:
    """Whatever happens to a fleet, also one in which not every host is asked: where workers go, and why not."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        compared(),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, bound in zip(("SMALL", "ENOUGH"), bounds, strict=True):
            patch.setattr(survey, name, bound)
        asyncio.run(lived(history, Path(folder)))


CLAIMED = [
    *((("cut", "b"), 70), (("cut", "c"), 70)),
    *((("ask", "small", 3, 45.0), 10), (("ask", "small", 4, 45.0), 3), (("ask", "other", 1, 90.0), 35)),
]
"""One model lacks a worker; another one claims the only room that there is once its workers' requests have ended."""


@settings(
    max_examples=max(60, HISTORIES // 10),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(test_histories.HISTORY)
@example(CLAIMED)
def test_that_holds_for_hosts_that_behave_as_hosts_do(history: Any) -> None:
    """With loads that fail, clients that wait, memory that comes free late."""
    with compared():
        asyncio.run(test_histories.lived(history))


@pytest.mark.parametrize(("change", "asked"), [({}, 0), ({"devices": (cpu(1, 1),)}, 40)], ids=["nothing", "one hive"])
def test_models_that_fit_nowhere_ask_hives_that_changed(
    queen: Callable[[FleetFile], Fixture], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], asked: int
) -> None:
    """Forty of them cost nothing as long as nothing changes, however many hives there are."""
    q = queen(fleet(*(model(f"m{n}", files=SIZES[30]) for n in range(40)), hives=tuple("abcdefgh")))
    q.beat(*"abcdefgh")
    q.controller.reconcile()
    count = 0

    def counted(*asks: Any) -> survey.Verdict:
        nonlocal count
        count += 1
        return look(*asks)

    look = survey.look
    for where in (survey, placement):
        monkeypatch.setattr(where, "look", counted)
    q.controller.heartbeat(q.report("c", **change))
    q.controller.reconcile()
    assert (count, len(q.controller.reasons)) == (asked, 40)
