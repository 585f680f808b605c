"""How many workers a model is to have, look by look."""

from typing import Any

import pytest

from rbee_runtime.queen.scaling import UP_SECONDS, Scale, Traffic, advanced, started, without
from tests.unit.queen.states import model

TTL = 60.0


def after(scale: Scale, seen: Traffic, seconds: float, **fields: Any) -> int:
    """Return the target once a model has seen the same for so long, looked at each second."""
    declared = model(**{"replicas_min": 0, "replicas_max": 3, "idle_ttl": TTL, **fields})
    for second in range(int(seconds) + 1):
        scale = advanced(scale, declared, seen, now=float(second))
    return scale.replicas


def busy(ready: int, in_flight: int = 0, waiting: int = 0) -> Traffic:
    return Traffic(waiting=waiting, in_flight=in_flight, slots=ready * 10, ready=ready)


ONE, TWO = Scale(1, 0.0), Scale(2, 0.0)


@pytest.mark.parametrize(
    ("scale", "seen", "seconds", "fields", "target"),
    [
        (ONE, busy(1, waiting=1), UP_SECONDS, {}, 2),
        (ONE, busy(1, waiting=1), UP_SECONDS - 1, {}, 1),
        (ONE, busy(1, in_flight=8), UP_SECONDS, {}, 2),
        (ONE, busy(1, in_flight=7), 50, {}, 1),
        (TWO, busy(1, waiting=9), 50, {}, 2),
        (Scale(3, 0.0), busy(3, waiting=9), 50, {}, 3),
        (Scale(0, 0.0), busy(0, waiting=9), 50, {}, 0),
        (TWO, busy(2, in_flight=6), TTL, {}, 1),
        (TWO, busy(2, in_flight=7), TTL, {}, 2),
        (TWO, busy(2), TTL - 1, {}, 2),
        (Scale(3, 0.0), busy(3), TTL, {}, 2),
        (ONE, busy(1), TTL, {}, 0),
        (ONE, busy(1), TTL - 1, {}, 1),
        (ONE, busy(1, in_flight=1), 500, {}, 1),
        (ONE, Traffic(loading=True), 500, {}, 1),
        (ONE, busy(1), 500, {"replicas_min": 1}, 1),
        (ONE, busy(1), 500, {"idle_ttl": 0}, 1),
        (ONE, busy(1), 500, {"keep_loaded": True}, 1),
        (ONE, Traffic(gone=True), 0, {}, 0),
        (ONE, Traffic(gone=True, waiting=1), 9, {}, 1),
        (ONE, Traffic(gone=True), 9, {"replicas_min": 1}, 1),
        (ONE, Traffic(gone=True), 9, {"keep_loaded": True}, 1),
        (Scale(9, 0.0), busy(3), 0, {}, 3),
        (Scale(0, 0.0), busy(0), 0, {"replicas_min": 2}, 2),
    ],
)
def test_the_target_follows_what_is_seen(
    scale: Scale, seen: Traffic, seconds: float, fields: dict[str, Any], target: int
) -> None:
    """More while requests wait or slots are full, fewer after the idle TTL, always within the bounds."""
    assert after(scale, seen, seconds, **fields) == target


def test_a_queen_that_starts_keeps_what_runs() -> None:
    """A model on demand that is loaded stays so, and its idle time begins anew."""
    declared = model(replicas_min=0, replicas_max=2)
    assert started(declared, 1, now=9.0) == Scale(1, used=9.0)
    assert started(declared, 5, now=9.0).replicas == 2


def test_a_worker_that_made_room_is_not_wanted_back() -> None:
    """The target falls with it, and not below nothing."""
    assert [without(scale).replicas for scale in (TWO, Scale(0, 0.0))] == [1, 0]
