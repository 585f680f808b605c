"""Presence by the queen's own clock, and the freeze."""

from collections.abc import Callable

import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.queen import views
from rbee_runtime.queen.membership import Membership, Presence, largest_group
from rbee_runtime.states import Intent
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]


@pytest.mark.parametrize(
    ("silence", "presence"),
    [(0, Presence.LIVE), (14.9, Presence.LIVE), (15, Presence.SUSPECT), (59.9, Presence.SUSPECT), (60, Presence.LOST)],
)
async def test_presence_follows_silence(queen: Maker, silence: float, presence: Presence) -> None:
    """Suspect after 15 s, lost after 60 s without a heartbeat."""
    q = queen(fleet(hives=("a",)))
    q.beat("a")
    q.clock.now += silence
    assert q.controller.membership.presence("a") is presence


async def test_a_hive_that_was_remembered_has_time_to_speak(queen: Maker) -> None:
    """After a restart a known hive is unknown for 60 s, then lost."""
    q = queen(fleet(hives=("a",)))
    q.controller.set_drained("a", drained=False)
    assert q.controller.membership.presence("a") is Presence.UNKNOWN
    q.clock.now += 60
    assert q.controller.membership.presence("a") is Presence.LOST


@pytest.mark.parametrize(("moments", "size"), [([], 0), ([1], 1), ([1, 40], 1), ([1, 20, 45], 3), ([1, 2, 50], 2)])
def test_groups_are_chains_of_near_moments(moments: list[float], size: int) -> None:
    """Hives fell silent together if at most 30 s lie between neighbours."""
    assert largest_group(moments) == size


async def test_one_lost_hive_of_two_is_replaced(queen: Maker) -> None:
    """A single loss is no network failure, even if it is half the fleet."""
    q = queen(fleet(model(), hives=("a", "b")))
    q.beat("a", "b")
    (first,) = q.controller.assignments.values()
    spare = "b" if first.hive == "a" else "a"
    for _ in range(7):
        q.clock.now += 10
        q.beat(spare)
    hives = {entry.hive: entry.intent for entry in q.controller.assignments.values()}
    assert hives == {first.hive: Intent.LOST, spare: Intent.PLACED}


async def test_many_lost_together_freeze_rescheduling(queen: Maker) -> None:
    """Two of three silent at once: nothing is moved, and their workers stay in routing."""
    q = queen(fleet(model(replicas_min=3)))
    q.beat("a", "b", "c")
    q.clock.now += 12
    q.beat("a", "b", "c")
    for _ in range(7):
        q.clock.now += 10
        q.beat("a")
    assert q.controller.situation().frozen
    assert {entry.intent for entry in q.controller.assignments.values()} == {Intent.PLACED}
    assert [seat.usable for seat in q.controller.seats("m")] == [True] * 3


async def test_probes_decide_over_the_workers_of_a_silent_hive(queen: Maker) -> None:
    """A silent hive's worker is used until a probe of the worker itself fails, and again once the hive speaks."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    q.clock.now += 70
    q.controller.reconcile()
    assert [seat.usable for seat in q.controller.seats("m")] == [True]
    q.controller.unreachable = set(q.workers("a"))
    q.controller.publish()
    assert [seat.usable for seat in q.controller.seats("m")] == [False]
    q.beat("a")
    assert [seat.usable for seat in q.controller.seats("m")] == [True]


async def test_a_hive_that_the_inventory_lost_is_shown_while_it_speaks(queen: Maker) -> None:
    """One that was taken out and is silent is no hive that ever was: neither now nor after a restart of the queen."""
    q = queen(fleet(model(replicas_min=2), hives=("a", "b")))
    q.beat("a", "b")
    q.beat("a", "b")
    assert len(q.workers("b")) == 1
    q.write(fleet(model(), hives=("a",)))
    assert q.controller.fleet.poll()
    q.controller.reconcile()
    q.beat("a", "b")
    assert {hive.name: hive.detail for hive in views.hives(q.controller)} == {
        "a": "",
        "b": "not in the inventory: nothing is placed here",
    }
    for _ in range(3):
        q.clock.now += 30
        q.beat("a")
    assert [hive.name for hive in views.hives(q.controller)] == ["a"]
    again = Membership(q.clock)
    again.restore(q.store.hives())
    q.controller.membership = again
    assert [hive.name for hive in views.hives(q.controller)] == ["a"]
