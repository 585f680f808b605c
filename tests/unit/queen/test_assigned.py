"""What is found by model and by hive, and what a plan of what changed says beside a plan of everything."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from rbee_runtime.queen import planner
from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.placement import NewId, Plan, plan
from rbee_runtime.queen.situation import Due, Situation
from tests.unit.queen.states import fleet, model, numbered, view
from tests.unit.queen.test_histories import HISTORY, lived


def test_workers_are_found_by_model_and_by_hive() -> None:
    """In the order in which they came; one that is put again keeps its place, one that went is nowhere."""
    now = Situation(fleet(model(replicas_min=3)), {name: view(name) for name in "abc"}, ())
    first, second, third = plan(now, numbered()).assignments
    found = Assigned((first, second, third))
    found[first.id] = first
    del found[second.id]
    assert (list(found.of("m")), list(found.on(second.hive))) == ([first, third], [])
    assert found.turn(first.id) < found.turn(third.id)
    assert found.take_changed().keys() == {first.id, second.id, third.id}
    assert (found.take_changed(), tuple(found.entries()), found.entries()[1]) == ({}, (first, third), third)


def same_as_all(now: Situation, new_id: NewId, due: Due | None = None) -> Plan:
    """Return a plan of what is due, which says what one of everything would."""
    made: list[str] = []

    def noted(slug: str) -> str:
        made.append(new_id(slug))
        return made[-1]

    found, again = plan(now, noted, due), iter(made)
    whole = plan(now, lambda _: next(again))
    assert {entry.id: entry for entry in found.assignments} == {entry.id: entry for entry in whole.assignments}
    assert (found.retiring, found.evicted) == (whole.retiring, whole.evicted)
    assert {name: why for name, why in whole.reasons.items() if name in found.looked_at} == found.reasons
    return found


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every plan of the queen compared."""
    monkeypatch.setattr(planner, "plan", same_as_all)


@settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(HISTORY)
def test_a_plan_of_what_changed_says_what_one_of_everything_would(compared: None, history: Any) -> None:
    """Whatever happens to a fleet: nothing that was left out would have come out otherwise."""
    asyncio.run(lived(history))
