"""Which workers get a new spec now, as pure cases."""

from dataclasses import replace
from typing import Any

import pytest

from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.placement import Plan, plan
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.renewal import build_of, spec_of
from rbee_runtime.queen.situation import HiveView, Situation
from rbee_runtime.states import Intent, Observed
from tests.unit.queen.states import fleet, model, numbered, view

OLD, NEW = "0.1.0-aaaaaaaa", "0.2.0-bbbbbbbb"
DECLARED = model(replicas_min=2)


def hive(name: str, build: str = NEW, **fields: Any) -> HiveView:
    return view(name, fields.pop("presence", Presence.LIVE), builds={"fake": build, "llama-cpp": build}, **fields)


def worker(name: str, state: Observed | None = Observed.READY, build: str = OLD, **fields: Any) -> Assignment:
    """Return the worker of hive `name`, whose id is that name too, seen there before."""
    bare = plan(Situation(fleet(model()), {name: view(name)}, ()), numbered()).assignments[0]
    spec = spec_of(DECLARED, name, ("cpu",), build)
    return replace(bare, spec=spec, observed=state, port=9000, **fields)


def planned(entries: list[Assignment], *hives: HiveView, **fields: Any) -> Plan:
    views = {each.name: each for each in hives or (hive("a"), hive("b"))}
    return plan(Situation(fleet(DECLARED, hives=tuple(views)), views, tuple(entries), **fields), numbered())


def builds(outcome: Plan) -> dict[str, str]:
    return {entry.id: entry.spec.build for entry in outcome.assignments}


def test_a_first_assignment_has_the_build_of_its_hive() -> None:
    """A worker that is placed starts with what its hive has now and is not replaced for it later."""
    views = (hive("a"), hive("b", OLD))
    first = planned([], *views).assignments
    assert {entry.hive: entry.spec.build for entry in first} == {"a": NEW, "b": OLD}
    serving = [replace(entry, observed=Observed.READY) for entry in first]
    assert planned(serving, *views).assignments == tuple(serving)


READY, STARTING = Observed.READY, Observed.STARTING
CASES: dict[str, tuple[list[Assignment], dict[str, str]]] = {
    "both serve": ([worker("a"), worker("b")], {"a": NEW, "b": OLD}),
    "one of them starts": ([worker("a"), worker("b", STARTING)], {"a": OLD, "b": NEW}),
    "none serves": ([worker("a", STARTING), worker("b", Observed.CRASH_LOOP)], {"a": NEW, "b": NEW}),
    "one waits for its next try": ([worker("a"), worker("b", Observed.BACKOFF)], {"a": OLD, "b": NEW}),
    "the first is ready again": ([worker("a", READY, NEW), worker("b")], {"a": NEW, "b": NEW}),
    "the first is still being stopped": ([worker("a", Observed.DRIFTED, NEW), worker("b")], {"a": NEW, "b": OLD}),
    "the first starts": ([worker("a", STARTING, NEW), worker("b")], {"a": NEW, "b": OLD}),
    "the first never starts": ([worker("a", Observed.CRASH_LOOP, NEW), worker("b")], {"a": NEW, "b": OLD}),
    "nobody told of the first yet": ([worker("a", None, NEW), worker("b")], {"a": NEW, "b": OLD}),
    "nobody told of an old one": ([worker("a", None), worker("b")], {"a": OLD, "b": OLD}),
    "nobody told of both": ([worker("a", None), worker("b", None)], {"a": OLD, "b": OLD}),
}


@pytest.mark.parametrize("case", CASES)
def test_one_that_serves_is_replaced_at_a_time(case: str) -> None:
    """Of two workers on upgraded hives, the next one that serves is touched when the other one is ready again."""
    entries, after = CASES[case]
    assert builds(planned(entries)) == after


@pytest.mark.parametrize(
    ("away", "after"),
    [
        ({"presence": Presence.UNKNOWN}, {"a": OLD, "b": NEW}),
        ({"presence": Presence.SUSPECT}, {"a": OLD, "b": NEW}),
        ({"presence": Presence.LOST}, {"a": OLD, "b": NEW}),
        ({"engines": frozenset()}, {"a": OLD, "b": NEW}),
    ],
    ids=["not heard yet", "silent", "lost", "without its engine now"],
)
def test_a_hive_that_says_nothing_keeps_its_workers_as_they_are(away: dict[str, Any], after: dict[str, str]) -> None:
    """What a hive does not tell is not guessed, and its worker serves on while another one is replaced."""
    outcome = planned([worker("a"), worker("b")], hive("a", **away), hive("b"), frozen=True)
    assert builds(outcome) == after


def test_a_drained_host_is_left_alone() -> None:
    """A worker that still answers there goes when it is idle, not to come back with another build."""
    outcome = planned([worker("a"), worker("b")], hive("a", drained=True), hive("b"), busy=frozenset("a"))
    assert builds(outcome)["a"] == OLD


def test_a_hive_that_knows_of_no_builds_never_replaces_for_one() -> None:
    """A hive of the release before builds reports none: its workers' specs have none either."""
    entries = [worker("a", build=""), worker("b", build="")]
    assert builds(planned(entries, view("a"), view("b"))) == {"a": "", "b": ""}
    assert [build_of("fake", view("a"), held) for held in ("", OLD)] == ["", ""]


def test_a_hive_that_went_back_takes_its_worker_back() -> None:
    """A worker that does not start with the new build gets the old one at once when its host has that again."""
    entries = [worker("a", Observed.CRASH_LOOP, NEW), worker("b")]
    assert builds(planned(entries, hive("a", OLD), hive("b", OLD))) == {"a": OLD, "b": OLD}


def test_a_worker_with_requests_takes_no_more_and_is_replaced_when_they_ended() -> None:
    """It is named as one that retires, with its old spec, until nothing is in flight on it."""
    entries = [worker("a"), worker("b")]
    waits = planned(entries, held=frozenset({"a", "b"}))
    assert (waits.assignments, waits.retiring) == (tuple(entries), frozenset({"a"}))
    goes = planned(entries, held=frozenset({"b"}))
    assert (builds(goes), goes.retiring) == ({"a": NEW, "b": OLD}, frozenset())


def test_a_worker_that_only_seems_not_to_serve_is_not_cut() -> None:
    """One that missed a probe while it answers requests is replaced when they ended."""
    waits = planned([worker("a", STARTING), worker("b", READY, NEW)], held=frozenset({"a"}))
    assert (builds(waits)["a"], waits.retiring) == (OLD, frozenset({"a"}))


def test_nobody_is_taken_out_while_another_one_cannot_be_reached() -> None:
    """A worker that refuses connections counts as one that is down, whatever its hive said last."""
    entries = [worker("a"), worker("b", READY, NEW)]
    assert builds(planned(entries, unreachable=frozenset({"b"})))["a"] == OLD
    assert builds(planned(entries))["a"] == NEW


@pytest.mark.parametrize(
    ("state", "build", "goes_on"),
    [(STARTING, NEW, False), (READY, NEW, True), (STARTING, OLD, True)],
    ids=["while it started that build", "after it served with it", "before it had it"],
)
def test_a_host_that_is_lost_stops_what_may_have_ended_it(state: Observed, build: str, goes_on: bool) -> None:
    """A build that takes its host down reaches no second one; a host that went for another reason holds nobody up."""
    entries = [worker("a", state, build, intent=Intent.LOST), worker("b")]
    outcome = planned(entries, hive("a", presence=Presence.LOST), hive("b"))
    assert builds(outcome)["b"] == (NEW if goes_on else OLD)


def test_models_are_replaced_side_by_side() -> None:
    """One worker of each model at a time, whatever the others do."""
    names = ("m", "n")
    declared = fleet(*(model(name, replicas_min=2) for name in names), hives=("a", "b"))
    views = {name: hive(name, OLD) for name in "ab"}
    first = plan(Situation(declared, views, ()), numbered()).assignments
    serving = tuple(replace(entry, observed=READY, port=9000) for entry in first)
    outcome = plan(Situation(declared, {name: hive(name) for name in "ab"}, serving), numbered())
    renewed = [entry.spec.model for entry in outcome.assignments if entry.spec.build == NEW]
    assert sorted(renewed) == list(names)
