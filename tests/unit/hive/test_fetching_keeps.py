"""What fetches leave of a store: pins, leases, a quota, and what a try that failed counted on."""

import asyncio
import hashlib

import pytest
from msgspec.structs import replace

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelStoreError
from rbee_runtime.models.pins import Pins
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelReport, ModelSpec
from rbee_runtime.states import FetchState
from tests.unit.hive.fetch_case import CONTENT, FAKE, SPEC, Case
from tests.unit.hive.waiting import until


async def test_a_pinned_model_is_kept(case: Case) -> None:
    """A spec that pins makes the model one that collection leaves alone, until it does not any more."""
    case.source.go_on.set()
    pinned = ModelSpec(name="m", source=SPEC.source, pin=True)
    await case.look(pinned)
    await asyncio.wait_for(case.changed.wait(), 10)
    await case.look(pinned)
    await case.look(pinned)
    assert case.fetching.reports[0].pinned
    await case.look()
    assert not case.fetching.reports[0].pinned


GONE: dict[str, tuple[tuple[str, ...] | None, bool]] = {
    "it runs elsewhere": (("m",), True),
    "it left the inventory": ((), False),
    "a queen that does not say": (None, True),
}


@pytest.mark.parametrize(("pins", "stays"), GONE.values(), ids=GONE)
async def test_a_pin_of_the_inventory_ends_with_it(case: Case, pins: tuple[str, ...] | None, stays: bool) -> None:
    """A model that no worker of this host needs any more is kept as long as the inventory pins it."""
    case.source.go_on.set()
    pinned = ModelSpec(name="m", source=SPEC.source, pin=True)
    await case.look(pinned)
    await asyncio.wait_for(case.changed.wait(), 10)
    await case.look(pinned)
    await case.fetching.look((), pins=pins)
    assert [report.pinned for report in case.fetching.reports] == [stays]


async def test_what_is_wanted_is_leased_while_it_is(case: Case) -> None:
    """Other hives on the disk see that it is used before it is told ready, and within a minute that it is not."""
    neighbour = ModelStore(case.store.layout.root, holder="neighbour")
    case.source.go_on.set()
    await case.look()
    await case.settle()
    assert (case.fetching.models["m"].ready, list(neighbour.leases.others())) == (True, ["m"])
    case.now += 61
    await case.look(FAKE)
    assert neighbour.leases.others() == {}


async def test_a_full_quota_is_not_asked_about_at_each_look(case: Case) -> None:
    """Room on the disk says nothing about a quota: the source is left alone until the schedule's time."""
    case.store.settings = StoreSettings(spare=0, quota=10)
    await case.look()
    await case.settle()
    for _ in range(5):
        await asyncio.sleep(0.01)
        await case.look()
    assert (case.state, case.source.opened) == (FetchState.DISK_FULL, 1)


@pytest.mark.parametrize("fails", [True, False], ids=["the other fails", "the other is not wanted any more"])
async def test_room_that_another_fetch_gives_up_is_used_at_once(case: Case, fails: bool) -> None:
    """What did not fit beside another fetch is tried when that one ends without its model, not after ten minutes."""
    other = replace(SPEC, name="other")
    await case.look(other)
    await until(lambda: case.fetching.fetches[0].total)
    case.source.error = DiskFullError("no room beside other")
    await case.look(other, SPEC)

    async def refused() -> bool:
        await case.look(other, SPEC)
        return case.fetching.fetches[-1].state is FetchState.DISK_FULL

    await until(refused)
    assert case.source.opened == 2
    if fails:
        case.source.error = ModelStoreError("gone")
        case.source.fails_midway = True
        case.source.go_on.set()
    wanted = (other, SPEC) if fails else (SPEC,)

    async def tried_again() -> bool:
        await case.look(*wanted)
        return case.source.opened == 3

    await until(tried_again)


async def test_a_pin_that_cannot_be_written_stops_no_look(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store mounted read-only serves its models, pinned or not."""
    case.source.go_on.set()
    await case.look()
    await case.settle()

    def refused(*_: object, **__: object) -> None:
        raise ModelStoreError("the disk is mounted read-only")

    monkeypatch.setattr(Pins, "by_inventory", refused)
    await case.look(ModelSpec(name="m", source=SPEC.source, pin=True))
    assert case.fetching.models["m"].ready


@pytest.mark.parametrize("earlier", [False, True])
async def test_what_a_failed_try_counted_on_stays_while_the_model_is_wanted(case: Case, earlier: bool) -> None:
    """Its blobs are leased over the pause, beside an earlier version too, and not once nobody wants the model."""
    if earlier:
        case.store.layout.prepare()
        case.store.commit(ModelReport(name="m", size=0, source="https://models.example/before.gguf"))
    case.source.sha256 = hashlib.sha256(CONTENT).hexdigest()
    case.source.fails_midway = True
    case.source.go_on.set()
    await case.look()
    await case.settle()
    leased = []
    for wanted in (SPEC, FAKE):
        case.fetching._touched = 0.0
        await case.look(wanted)
        leased.append(case.store.leases.blobs())
    assert leased == [{case.source.sha256}, frozenset()]
