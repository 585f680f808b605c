"""A queen whose hives get another build: routing, what people see, and what a restart forgets."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.protocol import WorkerReport
from rbee_runtime.queen import views
from rbee_runtime.queen.lines import Lines
from rbee_runtime.queen.records import Scope
from rbee_runtime.queen.rolling import EMPTY_SECONDS
from rbee_runtime.states import Observed
from tests.unit.hive.waiting import until
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]
OLD, NEW = "0.1.0-aaaaaaaa", "0.2.0-bbbbbbbb"


class Hives:
    """Hives that do what they are told when a test says so; each has one worker of the model at most."""

    def __init__(self, q: Fixture, *names: str) -> None:
        self.q = q
        self.builds = dict.fromkeys(names, OLD)
        self.run: dict[str, str] = {}
        self.told: dict[str, str] = {}
        for _ in range(2):
            for name in names:
                self.follow(name)

    def beat(self, hive: str, state: Observed = Observed.READY) -> None:
        """Send a heartbeat: the worker is in a state and runs what it was last started with."""
        report = self.q.report(hive, state, builds={"fake": self.builds[hive]})
        workers = tuple(self._told(each) for each in report.workers if each.id in self.run)
        self.q.controller.heartbeat(msgspec.structs.replace(report, workers=workers))

    def hear(self, hive: str) -> None:
        """Learn what is wanted, and do nothing about it yet."""
        self.told |= {spec.id: spec.digest() for spec in self.q.documents.document(hive).workers}

    def follow(self, hive: str, state: Observed = Observed.READY) -> None:
        """Start what is wanted, and say that."""
        self.hear(hive)
        self.run |= {spec.id: spec.digest() for spec in self.q.documents.document(hive).workers}
        self.beat(hive, state)

    def _told(self, report: WorkerReport) -> WorkerReport:
        return msgspec.structs.replace(report, spec=self.run[report.id], wanted=self.told[report.id])


@pytest.fixture
def q(queen: Maker) -> Fixture:
    return queen(fleet(model(each_host=True, slots=4), hives=("a", "b")))


@pytest.fixture
def hives(q: Fixture) -> Hives:
    return Hives(q, "a", "b")


def usable(q: Fixture) -> list[str]:
    return sorted(q.controller.assignments[seat.worker].hive for seat in q.controller.seats("m") if seat.usable)


def shown(q: Fixture) -> dict[str, tuple[str, bool]]:
    return {row.hive: (row.build, row.outdated) for row in views.workers(q.controller)}


def lease(q: Fixture) -> asyncio.Task[object]:
    lines = Lines(q.controller, q.controller.roster, queue_wait=60.0, clock=q.clock)
    q.controller.on_change = lines.changed
    ask = Ask(q.keys.create("test", [Scope.INFER], ("*",))[0].id, "m")
    return asyncio.create_task(lines.lease(ask))


def test_a_worker_is_outdated_until_it_is_ready_with_the_new_build(q: Fixture, hives: Hives) -> None:
    """A deployer that waits until nobody is outdated waits for the last worker to serve again, and no longer."""
    assert shown(q) == {"a": (OLD, False), "b": (OLD, False)}
    hives.builds = {"a": NEW, "b": NEW}
    hives.beat("a")
    assert shown(q) == {"a": (NEW, True), "b": (OLD, False)}
    hives.beat("b")
    assert shown(q) == {"a": (NEW, True), "b": (OLD, True)}
    hives.follow("a", Observed.STARTING)
    assert shown(q) == {"a": (NEW, True), "b": (OLD, True)}
    hives.follow("a")
    assert shown(q) == {"a": (NEW, False), "b": (NEW, True)}
    hives.follow("b")
    assert shown(q) == {"a": (NEW, False), "b": (NEW, False)}
    assert [row.builds for row in views.hives(q.controller)] == [{"fake": NEW}] * 2


def test_one_that_failed_before_holds_up_nobody(q: Fixture, hives: Hives) -> None:
    """A worker that was broken before an upgrade gets the build, is not called broken by it, and the other follows."""
    hives.beat("a", Observed.CRASH_LOOP)
    hives.builds = dict.fromkeys(hives.builds, NEW)
    hives.beat("b")
    hives.beat("a", Observed.CRASH_LOOP)
    assert [(row.hive, row.build, row.renewed) for row in views.workers(q.controller)] == [
        ("a", NEW, False),
        ("b", OLD, False),
    ]
    hives.follow("a", Observed.STARTING)
    assert shown(q)["b"] == (OLD, True)  # it may be mended by the new build, so this is waited for
    hives.follow("a", Observed.CRASH_LOOP)
    assert shown(q)["b"] == (NEW, True)
    hives.follow("b")
    assert shown(q) == {"a": (NEW, False), "b": (NEW, False)}


def test_one_that_an_upgrade_broke_holds_up_the_others(q: Fixture, hives: Hives) -> None:
    """The worker that served before and fails with the new build is the only one that has it."""
    hives.builds = dict.fromkeys(hives.builds, NEW)
    hives.beat("a")
    hives.beat("b")
    hives.follow("a", Observed.CRASH_LOOP)
    hives.beat("b")
    assert shown(q) == {"a": (NEW, True), "b": (OLD, True)}
    assert [row.renewed for row in views.workers(q.controller)] == [True, False]


def test_a_worker_that_starts_for_another_reason_is_not_outdated(q: Fixture, hives: Hives) -> None:
    """One that crashed, or a hive that is away, is no business of an upgrade."""
    hives.beat("a", Observed.BACKOFF)
    assert shown(q)["a"] == (OLD, False)
    hives.builds["b"] = NEW
    hives.beat("b")
    q.clock.now += 20
    assert shown(q)["b"] == (OLD, False)


def test_no_request_goes_to_a_worker_that_will_be_stopped(q: Fixture, hives: Hives) -> None:
    """From the moment in which it is to be replaced until it is ready anew, whatever its hive still reports."""
    hives.builds["a"] = NEW
    hives.beat("a")
    seen = [usable(q)]
    hives.beat("a")
    seen.append(usable(q))
    hives.beat("a", Observed.DRIFTED)
    hives.follow("a", Observed.STARTING)
    seen.append(usable(q))
    hives.follow("a")
    assert (seen, usable(q)) == ([["b"]] * 3, ["a", "b"])


def test_a_worker_that_its_hive_cannot_replace_serves_on(q: Fixture, hives: Hives) -> None:
    """A hive that heard of the new spec and still calls the old one ready, for want of its model, does not stop it."""
    hives.builds["a"] = NEW
    hives.beat("a")
    hives.hear("a")
    hives.beat("a")
    assert usable(q) == ["a", "b"]
    assert shown(q)["a"] == (NEW, True)


async def test_a_worker_whose_hive_cannot_be_told_serves_on(q: Fixture, hives: Hives) -> None:
    """Heartbeats come and documents do not arrive: nobody stops it, so nobody has to wait."""
    hives.builds["a"] = NEW
    hives.beat("a")
    sending = asyncio.create_task(q.documents.run())
    await until(lambda: q.documents.problem("a"))
    sending.cancel()
    hives.beat("a")
    assert usable(q) == ["a", "b"]


async def test_a_renewal_waits_for_requests_but_not_for_ever(q: Fixture, hives: Hives) -> None:
    """With a request in hand a worker takes no more; its hive hears of the new spec when that ended, or after 30 s."""
    held = {(await lease(q)).worker for _ in range(2)}  # type: ignore[attr-defined]
    assert held == set(q.controller.assignments)
    hives.builds["a"] = NEW
    hives.beat("a")
    assert (usable(q), shown(q)["a"]) == (["b"], (OLD, True))
    q.clock.now += EMPTY_SECONDS - 1
    hives.beat("a")
    hives.beat("b")
    assert (usable(q), shown(q)["a"]) == (["b"], (OLD, True))
    q.clock.now += 1
    q.controller.reconcile()
    assert (usable(q), shown(q)["a"]) == (["b"], (NEW, True))


async def test_requests_for_the_only_worker_wait_until_it_is_back(queen: Maker) -> None:
    """A model with one replica is out of service while that is replaced, which costs its clients time and no error."""
    q = queen(fleet(model(load_wait=300), hives=("a",)))
    hives = Hives(q, "a")
    hives.builds["a"] = NEW
    hives.beat("a")
    waiting = lease(q)
    for state in (Observed.READY, Observed.DRIFTED, Observed.DRAINING, Observed.STOPPING, Observed.EXITED):
        hives.beat("a", state)
        await asyncio.sleep(0)
        assert not waiting.done()
    hives.follow("a", Observed.STARTING)
    hives.follow("a")
    await waiting
    assert usable(q) == ["a"]


def test_a_restarted_queen_still_knows_who_was_being_replaced(q: Fixture, hives: Hives) -> None:
    """A worker that was remembered as not ready counts as outdated until it serves, like before the restart."""
    hives.builds["a"] = NEW
    hives.beat("a")
    q.store.close()
    again = Fixture(q.directory, q.declared, clock=q.clock)
    try:
        hives.q = again
        hives.hear("a")
        hives.beat("a", Observed.STARTING)
        assert shown(again)["a"] == (NEW, True)
        hives.follow("a")
        assert shown(again)["a"] == (NEW, False)
    finally:
        again.store.close()


def test_a_hive_of_the_release_before_builds_is_not_asked_for_one(q: Fixture) -> None:
    """It reports none, and hashes specs without: its workers are wanted without, serve, and are not outdated."""
    for _ in range(3):
        q.beat("a", "b")
    assert shown(q) == {"a": ("", False), "b": ("", False)}
    assert usable(q) == ["a", "b"]
