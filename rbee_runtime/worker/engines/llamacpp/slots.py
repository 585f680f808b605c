"""The places of a context: which sequence is in which, and what its cells hold.

free     nobody's; the cells keep the last answer's tokens, for whoever begins in the same way
sharing  taken; waits while another slot computes the beginning of the same prompt
prefill  taken; the prompt is being computed, chunk by chunk
decode   taken; the answer comes, a token per step
choosing taken; a grammar is asked for the next token, which takes longer than a step
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class SlotState(StrEnum):
    """What a slot does in the next step."""

    FREE = "free"
    SHARING = "sharing"
    PREFILL = "prefill"
    DECODE = "decode"
    CHOOSING = "choosing"


TRANSITIONS: dict[SlotState, frozenset[SlotState]] = {
    SlotState.FREE: frozenset({SlotState.SHARING, SlotState.PREFILL}),
    SlotState.SHARING: frozenset({SlotState.PREFILL, SlotState.FREE}),
    SlotState.PREFILL: frozenset({SlotState.DECODE, SlotState.CHOOSING, SlotState.FREE}),
    SlotState.DECODE: frozenset({SlotState.CHOOSING, SlotState.FREE}),
    SlotState.CHOOSING: frozenset({SlotState.DECODE, SlotState.FREE}),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to one prompt: `request` and `choice` name it; `prompt` is token ids, at least one."""

    request: int
    choice: int
    prompt: list[int]


@dataclass(slots=True)
class Slot:
    """One sequence.

    `held` is the tokens whose state is in its cells, `next` the token to decode, `used` when it was last taken or
    freed; `stays` is that its cells were found too large for the shelf, `ahead` that they were looked at before anybody
    needs them; `source` is the slot that computes the `wanted` first tokens for it, `cached` how many of the prompt's
    tokens it did not compute itself.
    """

    index: int
    state: SlotState = SlotState.FREE
    held: list[int] = field(default_factory=list)
    job: Job | None = None
    next: int = 0
    used: float = 0.0
    source: int = -1
    wanted: int = 0
    cached: int = 0
    stays: bool = False
    ahead: bool = False

    def enter(self, state: SlotState) -> None:
        """Go to a state that the table allows."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"slot {self.index} cannot go from {self.state} to {state}")
        self.state = state

    @property
    def prompt(self) -> list[int]:
        """Return the prompt of its job."""
        if self.job is None:
            raise AssertionError(f"slot {self.index} has no job")
        return self.job.prompt

    @property
    def missing(self) -> int:
        """Return how many tokens of the prompt are still to be computed."""
        return len(self.prompt) - len(self.held)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences of one type begin with alike.

    By halving, because comparing slices is done in C: a prompt of 100,000 tokens against eight slots takes some
    milliseconds, token by token in Python it would take a hundred.
    """
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low
