"""The places of a context and what they begin with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.worker.engines.llamacpp.slots import TRANSITIONS, Slot, SlotState, common_prefix


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_a_common_prefix_is_as_long_as_token_by_token(first: list[int], second: list[int]) -> None:
    """Halving finds what counting finds."""
    counted = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    assert common_prefix(first, second) == (min(len(first), len(second)) if counted is None else counted)


@pytest.mark.parametrize("state", SlotState)
@pytest.mark.parametrize("wanted", SlotState)
def test_slots_follow_their_table(state: SlotState, wanted: SlotState) -> None:
    """What the table does not allow is a mistake of ours and is not hidden."""
    slot = Slot(0, state)
    if wanted in TRANSITIONS[state]:
        slot.enter(wanted)
        assert slot.state is wanted
    else:
        with pytest.raises(AssertionError, match="slot 0 cannot go"):
            slot.enter(wanted)
