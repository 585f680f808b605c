"""What is found by model and by hive."""

from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.placement import plan
from rbee_runtime.queen.situation import Situation
from tests.unit.queen.states import fleet, model, numbered, view


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
