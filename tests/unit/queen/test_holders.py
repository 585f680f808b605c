"""Who else has a model: told to a hive that lacks it, without a new document for every copy that comes and goes."""

from collections.abc import Callable

import msgspec

from rbee_runtime.config import FleetFile
from rbee_runtime.protocol import DeviceReport, FetchReport, ModelReport
from rbee_runtime.queen import views
from rbee_runtime.queen.placement import plan
from rbee_runtime.queen.situation import Situation
from rbee_runtime.states import FetchState
from tests.unit.queen.states import GIB, Fixture, fleet, gpu, model, numbered, view

Maker = Callable[[FleetFile], Fixture]
HELD = (ModelReport(name="m", size=1),)


def holders(q: Fixture, hive: str) -> list[tuple[str, ...]]:
    return [each.holders for each in q.documents.document(hive).models]


def revision(q: Fixture, hive: str) -> int:
    return q.documents.document(hive).revision


def test_a_hive_hears_who_has_its_model(queen: Maker) -> None:
    """Once, when somebody has it; later changes of who has it make no new document; its own copy never counts."""
    q = queen(fleet(model(each_host=True), hives=("a", "b")))
    q.beat("a", "b")
    before = revision(q, "b")
    assert holders(q, "b") == [()]
    q.controller.heartbeat(q.report("a", models=HELD))
    assert (holders(q, "b"), revision(q, "b")) == ([("http://a:8600",)], before + 1)
    assert holders(q, "a") == [()]
    revisions = []
    for held in (HELD, (), HELD, (), HELD):
        q.controller.heartbeat(q.report("b", models=HELD))
        q.controller.heartbeat(q.report("a", models=held))
        revisions.append((revision(q, "a"), revision(q, "b")))
    assert revisions == [(1, 2), (2, 2), (2, 2), (2, 2), (2, 2)]


def test_a_pin_of_the_inventory_reaches_the_hive(queen: Maker) -> None:
    """A pinned model is pinned in its hive's document, any other is not, and every hive is told all pinned names."""
    pinned = model().model_copy(update={"name": "p", "pin": True})
    q = queen(fleet(model(hosts=("a",)), pinned, hives=("a", "b")))
    q.beat("a", "b")
    told = {each.name: each.pin for hive in ("a", "b") for each in q.documents.document(hive).models}
    assert told == {"m": False, "p": True}
    assert [q.documents.document(hive).pins for hive in ("a", "b")] == [("p",), ("p",)]


def test_a_lost_hive_is_nobodys_source(queen: Maker) -> None:
    """A hive that is silent is not named."""
    q = queen(fleet(model(hosts=("b",)), hives=("a", "b")))
    q.controller.heartbeat(q.report("a", models=HELD))
    q.clock.now += 100
    q.beat("b")
    assert holders(q, "b") == [()]


def test_an_unhealthy_device_gets_nothing_new() -> None:
    """A worker goes to the next device, and where there is none the reason names the device and what is wrong."""
    sick = DeviceReport(
        id="GPU-1", kind="cuda", name="g", total=80 * GIB, used=0, healthy=False, detail="fell off the bus"
    )
    hives = {"a": view("a", devices=(sick, gpu("GPU-2")))}
    situation = Situation(fleet(model(), hives=("a",)), hives, ())
    assert plan(situation, numbered()).assignments[0].spec.devices == ("GPU-2",)
    hives = {"a": view("a", devices=(sick,))}
    reasons = plan(Situation(fleet(model(), hives=("a",)), hives, ()), numbered()).reasons
    assert reasons == {"m": ("a: GPU-1 is not healthy (fell off the bus)",)}


def test_views_show_fetches_and_drained_hosts(queen: Maker) -> None:
    """What a hive fetches is told with its model, and a hive that empties itself gets nothing new and says so."""
    q = queen(fleet(model(hosts=("a",)), hives=("a", "b")))
    fetch = FetchReport(name="m", state=FetchState.FETCHING, done=4, total=8, rate=2.0, eta=2.0)
    q.controller.heartbeat(q.report("a", fetches=(fetch,), draining=True))
    q.controller.heartbeat(q.report("b", models=HELD))
    (shown,) = views.models(q.controller)
    assert (shown.held, [(each.hive, each.done, each.state) for each in shown.fetches]) == (
        ["b"],
        [("a", 4, FetchState.FETCHING)],
    )
    assert {hive.name: hive.draining for hive in views.hives(q.controller)} == {"a": True, "b": False}
    assert next(views.hives(q.controller)).fetches == [msgspec.to_builtins(fetch)]
    assert shown.missing == ["a: drained", "b: not among the model's hosts"]
