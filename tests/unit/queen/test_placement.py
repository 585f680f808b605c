"""Where workers go, as pure cases and as a long random life."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rbee_runtime.config import FleetFile, FleetHive
from rbee_runtime.protocol import ModelFile
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.placement import Plan, plan
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.situation import HiveView, Situation
from rbee_runtime.states import Intent, Observed
from tests.unit.queen.states import GIB, cpu, fleet, gpu, model, numbered, view


def situation(declared: FleetFile, *views: HiveView, existing: tuple[Assignment, ...] = (), **more: Any) -> Situation:
    return Situation(declared, {each.name: each for each in views}, existing, **more)


def places(outcome: Plan) -> list[str]:
    return [entry.hive for entry in outcome.assignments]


def ready(*entries: Assignment) -> tuple[Assignment, ...]:
    return tuple(replace(entry, observed=Observed.READY) for entry in entries)


def test_each_host_means_one_worker_on_every_eligible_hive() -> None:
    """A model for each host runs once on each live hive that has its engine."""
    bare = view("c", engines=frozenset({"llama-cpp"}))
    outcome = plan(situation(fleet(model(each_host=True)), view("a"), view("b"), bare), numbered())
    assert places(outcome) == ["a", "b"]
    assert outcome.reasons["m"] == ("c: has no engine fake (it has llama-cpp)",)


def test_replicas_spread_over_hives() -> None:
    """Two replicas go to two hives."""
    outcome = plan(situation(fleet(model(replicas_min=2)), view("a"), view("b")), numbered())
    assert sorted(places(outcome)) == ["a", "b"]


def test_the_emptier_device_is_taken() -> None:
    """A GPU goes before the CPU, and the one with more free memory before the other."""
    crowded = view("a", devices=(cpu(), gpu("g0"), gpu("g1", 48 * GIB)))
    (entry,) = plan(situation(fleet(model()), crowded), numbered()).assignments
    assert entry.spec.devices == ("g1",)


@pytest.mark.parametrize(
    ("hive", "why"),
    [
        (view("a", Presence.UNKNOWN), "not heard yet"),
        (view("a", Presence.SUSPECT), "silent"),
        (view("a", Presence.LOST), "lost"),
        (view("a", drained=True), "drained"),
        (view("a", devices=()), "reports no device"),
        (view("a", labels={"room": "1"}), "has no label room=2"),
        (view("z"), "not among the model's hosts"),
        (
            view("a", devices=(cpu(2 * GIB, foreign=GIB),)),
            (
                "needs 2.1 GiB, 922 MiB free on cpu "
                "(of 2.0 GiB: 0 MiB for other workers, 1.0 GiB used by others, 102 MiB kept free)"
            ),
        ),
    ],
)
def test_every_refusal_has_a_reason(hive: HiveView, why: str) -> None:
    """What cannot be placed says why, per hive, with numbers where numbers decide."""
    big = model(
        files=[{"name": "f", "sha256": "0" * 64, "size": 1550 * 1024 * 1024}], labels={"room": "2"}, hosts=["a"]
    )
    room = hive if hive.labels or hive.name != "a" else replace(hive, labels={"room": "2"})
    outcome = plan(situation(fleet(big), room), numbered())
    assert outcome.assignments == ()
    assert outcome.reasons["m"] == (f"{hive.name}: {why}",)


def test_a_valid_assignment_stays() -> None:
    """Planning again changes nothing."""
    now = situation(fleet(model(replicas_min=2)), view("a"), view("b"), view("c"))
    first = plan(now, numbered()).assignments
    assert plan(replace(now, existing=first), numbered()).assignments == first


def test_a_removed_model_releases_its_worker() -> None:
    """Nothing of an undeclared model is wanted."""
    first = plan(situation(fleet(model()), view("a")), numbered()).assignments
    assert plan(situation(fleet(), view("a"), existing=first), numbered()).assignments == ()


def test_a_lost_hives_worker_is_replaced_and_kept_in_mind() -> None:
    """A spare hive takes over; the lost worker is known until its hive is back."""
    first = ready(*plan(situation(fleet(model()), view("a")), numbered()).assignments)
    lost = situation(fleet(model()), view("a", Presence.LOST), view("b"), existing=first)
    old, new = plan(lost, lambda slug: f"{slug}-new").assignments
    assert (old.intent, old.hive) == (Intent.LOST, "a")
    assert (new.intent, new.hive) == (Intent.PLACED, "b")


def test_back_from_loss_the_original_stays() -> None:
    """When both run, the replacement goes."""
    first = ready(*plan(situation(fleet(model()), view("a")), numbered()).assignments)
    lost = situation(fleet(model()), view("a", Presence.LOST), view("b"), existing=first)
    both = ready(*plan(lost, lambda slug: f"{slug}-new").assignments)
    healed = plan(situation(fleet(model()), view("a"), view("b"), existing=both), numbered())
    assert [(entry.id, entry.intent) for entry in healed.assignments] == [(first[0].id, Intent.PLACED)]


def test_frozen_moves_nothing() -> None:
    """When the fault is likely ours, lost hives keep their workers and get no replacement."""
    first = ready(*plan(situation(fleet(model()), view("a")), numbered()).assignments)
    lost = situation(fleet(model()), view("a", Presence.LOST), view("b"), existing=first, frozen=True)
    assert plan(lost, numbered()).assignments == first


def test_a_drained_hives_worker_goes_when_it_is_idle() -> None:
    """A replacement starts at once; the old worker stays wanted until nothing is in flight on it."""
    first = ready(*plan(situation(fleet(model()), view("a")), numbered()).assignments)
    drained = situation(fleet(model()), view("a", drained=True), view("b"), existing=first)
    busy = plan(replace(drained, busy=frozenset({first[0].id})), lambda slug: f"{slug}-new")
    assert places(busy) == ["a", "b"]
    assert places(plan(replace(drained, existing=busy.assignments), numbered())) == ["b"]


def test_other_content_under_the_same_name_gets_a_new_worker() -> None:
    """A worker that mapped the old file is not the new model."""
    old = model(files=[ModelFile(name="f", sha256="a" * 64, size=1)])
    new = model(files=[ModelFile(name="f", sha256="b" * 64, size=1)])
    first = plan(situation(fleet(old), view("a")), numbered()).assignments
    (after,) = plan(situation(fleet(new), view("a"), existing=first), lambda slug: f"{slug}-new").assignments
    assert after.id == "m-new"


def test_a_changed_spec_rolls_one_worker_at_a_time() -> None:
    """New settings reach the second worker only when the first serves with them."""
    hives = (view("a"), view("b"))
    first = ready(*plan(situation(fleet(model(replicas_min=2)), *hives), numbered()).assignments)
    wider = fleet(model(replicas_min=2, context=8192))
    one = plan(situation(wider, *hives, existing=first), numbered()).assignments
    assert sorted(entry.spec.context for entry in one) == [4096, 8192]
    assert plan(situation(wider, *hives, existing=one), numbered()).assignments == one
    both = plan(situation(wider, *hives, existing=ready(*one)), numbered()).assignments
    assert {entry.spec.context for entry in both} == {8192}


def test_before_all_spoke_only_each_host_models_are_placed() -> None:
    """Right after a start a better hive may not have spoken yet."""
    declared = fleet(model("one"), model("all", each_host=True))
    outcome = plan(situation(declared, view("a"), view("b", Presence.UNKNOWN), settled=False), numbered())
    assert [entry.spec.model for entry in outcome.assignments] == ["all"]


def test_options_of_a_fake_source_reach_the_engine() -> None:
    """`fake:key=value` becomes the worker's options."""
    (entry,) = plan(situation(fleet(model(source="fake:slots=2,text=hi")), view("a")), numbered()).assignments
    assert entry.spec.options == {"slots": "2", "text": "hi"}


def _random_fleet(dice: random.Random) -> FleetFile:
    models = [
        model(
            f"m{n}", replicas_min=dice.randint(0, 3), each_host=dice.random() < 0.2, context=dice.choice([1024, 2048])
        )
        for n in range(4)
        if dice.random() < 0.8
    ]
    return FleetFile(hives=tuple(FleetHive(name=name) for name in "abcd"), models=tuple(models))


def _random_views(dice: random.Random) -> list[HiveView]:
    return [
        view(name, dice.choice(list(Presence)), drained=dice.random() < 0.2) for name in "abcd" if dice.random() < 0.9
    ]


@pytest.mark.parametrize("seed", range(25))
def test_a_long_life_never_assigns_a_worker_twice(seed: int) -> None:
    """Whatever happens to hives and declarations: ids are unique, nothing new lands on a hive that is not live."""
    dice = random.Random(seed)
    existing: tuple[Assignment, ...] = ()
    for _ in range(60):
        views = _random_views(dice)
        busy = frozenset(entry.id for entry in existing if dice.random() < 0.3)
        now = situation(_random_fleet(dice), *views, existing=existing, frozen=dice.random() < 0.2)
        outcome = plan(replace(now, busy=busy), lambda slug: f"{slug}-{dice.randrange(40):06x}")
        assert max(Counter(entry.id for entry in outcome.assignments).values(), default=0) <= 1
        known = {entry.id: entry.hive for entry in existing}
        live = {each.name for each in views if each.presence is Presence.LIVE and not each.drained}
        assert all(known.get(entry.id, entry.hive) == entry.hive for entry in outcome.assignments if entry.id in known)
        assert all(entry.hive in live for entry in outcome.assignments if entry.id not in known)
        states = [None, Observed.READY, Observed.STARTING]
        existing = tuple(replace(entry, observed=dice.choice(states)) for entry in outcome.assignments)


def stuck_on_a(*views: HiveView, **fields: Any) -> Situation:
    """Return a situation in which the model's worker on hive a cannot be started."""
    now = situation(fleet(model(**fields)), *views)
    entry = replace(
        plan(replace(now, hives={"a": now.hives["a"]}), numbered()).assignments[0], observed=Observed.EXITED
    )
    return replace(now, existing=(entry,), stuck=frozenset({entry.id}))


def test_a_stuck_worker_is_replaced_on_another_hive_and_goes_once_that_serves() -> None:
    """Until the replacement is ready the old place is remembered, so that it is not tried again."""
    now = stuck_on_a(view("a"), view("b"))
    both = plan(now, lambda slug: f"{slug}-new").assignments
    assert [entry.hive for entry in both] == ["a", "b"]
    assert plan(replace(now, existing=both), numbered()).assignments == both
    serving = replace(now, existing=(both[0], *ready(both[1])))
    assert places(plan(serving, numbered())) == ["b"]


def test_stuck_everywhere_means_no_more_tries() -> None:
    """Each hive is tried once, then the model says for each why it lacks a worker."""
    now = stuck_on_a(view("a"), view("b"))
    both = plan(now, lambda slug: f"{slug}-new").assignments
    stuck = replace(now, existing=both, stuck=frozenset(entry.id for entry in both))
    outcome = plan(stuck, lambda slug: f"{slug}-third")
    assert outcome.assignments == both
    assert outcome.reasons["m"] == tuple(f"{name}: its worker there cannot be started now" for name in "ab")


def test_a_worker_that_is_stuck_no_more_is_the_one_that_stays() -> None:
    """When its hive can start it again before the replacement serves, the replacement goes."""
    now = stuck_on_a(view("a"), view("b"))
    both = plan(now, lambda slug: f"{slug}-new").assignments
    assert places(plan(replace(now, existing=both, stuck=frozenset()), numbered())) == ["a"]


def test_a_worker_of_each_host_that_is_stuck_gets_no_twin() -> None:
    """A model for each host keeps its one worker there and says that it cannot start."""
    now = stuck_on_a(view("a"), view("b"), each_host=True)
    outcome = plan(now, lambda slug: f"{slug}-new")
    assert places(outcome) == ["a", "b"]
    assert outcome.reasons["m"] == ("a: its worker there cannot be started now",)
