"""A drain that its hive has not heard of: shown as such, and undone without harm."""

from collections.abc import Callable

import httpx
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.queen import views
from rbee_runtime.queen.desired import Documents
from rbee_runtime.states import Intent
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]


def following(q: Fixture, hive: str) -> None:
    """Have a hive say that it is ready and follows its document."""
    held = q.documents.document(hive)
    q.controller.heartbeat(q.report(hive, epoch=held.epoch, revision=held.revision))


@pytest.fixture
def q(queen: Maker) -> Fixture:
    """Return a queen whose only hive runs one worker as its document says."""
    made = queen(fleet(model(), hives=("a",)))
    made.beat("a")
    following(made, "a")
    return made


@pytest.mark.parametrize("away", [0, 20, 70])
async def test_undrained_before_the_hive_heard_of_it_keeps_the_worker(q: Fixture, away: float) -> None:
    """Whether the queen had noticed that the hive is away or not: the worker that runs there is the wanted one."""
    (worker,) = q.workers("a")
    q.clock.now += away
    q.controller.set_drained("a", drained=True)
    q.clock.now += 10
    q.controller.reconcile()
    q.controller.set_drained("a", drained=False)
    following(q, "a")
    assert [(entry.id, entry.intent) for entry in q.controller.assignments.values()] == [(worker, Intent.PLACED)]
    assert [each.id for each in q.documents.document("a").workers] == [worker]
    assert [entry.id for entry in q.store.assignments()] == [worker]


async def test_a_drain_waits_for_a_hive_that_is_away(q: Fixture) -> None:
    """Its worker is still counted, gets no requests, and goes when the hive is back."""
    q.clock.now += 70
    q.controller.set_drained("a", drained=True)
    (shown,) = views.hives(q.controller)
    assert (shown.drained, shown.workers, "its workers run on" in shown.detail) == (True, 1, True)
    assert [seat.usable for seat in q.controller.seats("m")] == [False]
    q.beat("a")
    (shown,) = views.hives(q.controller)
    assert (shown.drained, shown.workers, shown.detail) == (True, 0, "")


async def test_a_drain_that_was_heard_is_over_for_good(q: Fixture) -> None:
    """A hive that followed has stopped its worker; what comes after the drain is a new one."""
    (worker,) = q.workers("a")
    q.controller.set_drained("a", drained=True)
    following(q, "a")
    q.controller.set_drained("a", drained=False)
    assert [each for each in q.workers("a") if each != worker] == q.workers("a") != []


async def test_a_document_that_cannot_be_sent_is_unheard(q: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hive that stopped a moment ago still counts as live, and its drain as not in force."""

    async def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(q.client, "put", refuse)
    q.controller.set_drained("a", drained=True)
    assert q.controller.unheard_drain("a") == ""
    await Documents._push(q.documents, "a", q.documents.document("a"))
    assert "its workers run on" in q.controller.unheard_drain("a")
