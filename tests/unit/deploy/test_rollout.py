"""In which turn each host is activated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_deploy.errors import InventoryError
from rbee_deploy.inventory import Rollout, fleet, host

BATCHES = st.one_of(st.integers(1, 300), st.integers(1, 100).map(lambda share: f"{share}%"))


@given(st.integers(0, 250), st.integers(0, 5), BATCHES)
def test_everybody_has_one_turn_and_none_is_too_big(count: int, canary: int, batch: int | str) -> None:
    """Turns follow the order of the inventory, the first has the canaries, no other more hosts than a batch."""
    names = [f"h{number}" for number in range(count)]
    rollout = Rollout(canary, batch)
    turns = rollout.assign(names)
    sizes = [sum(turn == number for turn in turns.values()) for number in range(max(turns.values(), default=-1) + 1)]
    assert sorted(names, key=lambda name: turns[name]) == names
    assert len(sizes) == rollout.turns(count)
    assert all(sizes)
    if canary and count:
        assert sizes[0] == min(canary, count)
    assert all(size <= rollout.size(count) for size in sizes[1 if canary else 0 :])


@pytest.mark.parametrize(
    ("rollout", "sentence"),
    [
        ("25%", "it must be Rollout"),
        (Rollout(batch="a quarter"), "batch is 'a quarter'"),
        (Rollout(batch="0%"), "batch is '0%'"),
        (Rollout(batch="101%"), "batch is '101%'"),
        (Rollout(batch="²%"), "batch is '²%'"),
        (Rollout(batch=0), "batch is 0: it must be a number of hosts"),
        (Rollout(batch=True), "batch is True"),
        (Rollout(batch=2.5), "batch is 2.5"),  # type: ignore[arg-type]
        (Rollout(canary=-1), "canary is -1: it must be a whole number"),
        (Rollout(canary="1"), "canary is '1'"),  # type: ignore[arg-type]
        (Rollout(canary="25%"), "canary is '25%'"),  # type: ignore[arg-type]
        (Rollout(workers_seconds="10"), "workers_seconds is '10'"),  # type: ignore[arg-type]
        (Rollout(workers_seconds=-1), "workers_seconds is -1"),
        (Rollout(workers_seconds=float("nan")), "workers_seconds is nan"),
        (Rollout(undo=[]), "undo is \\[\\]"),  # type: ignore[arg-type]
    ],
)
def test_a_rollout_that_makes_no_sense_is_named(rollout: object, sentence: str) -> None:
    """One sentence with the field, when the inventory loads."""
    with pytest.raises(InventoryError, match=f"rollout.*{sentence}"):
        fleet("x", hosts=[host("a", queen=True)], rollout=rollout)
