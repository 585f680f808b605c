"""Sequences that nobody answers now, put out of the context into main memory.

A free slot's cells would be looked through for every token of every answer, its own or not: with seven of eight slots
full of 240 old tokens one answer took 10 ms per token instead of 7. So they leave the context as soon as somebody
works there, and come back when a prompt begins in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rbee_runtime.worker.engines.llamacpp.slots import common_prefix


@dataclass(slots=True)
class Parked:
    """One sequence: its tokens, the engine's bytes for them (`state`, `size`), and when it was last asked for."""

    tokens: list[int]
    state: Any
    size: int
    used: float


class Shelf:
    """At most `limit` bytes of sequences; the one unused for longest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parked: list[Parked] = []

    @property
    def size(self) -> int:
        """Return the bytes of all sequences."""
        return sum(each.size for each in self._parked)

    def takes(self, size: int) -> bool:
        """Say whether a sequence of so many bytes can be kept at all."""
        return size <= self._limit

    def has(self, tokens: Sequence[int]) -> bool:
        """Say whether a sequence is there already, alone or as the beginning of another one."""
        return any(common_prefix(each.tokens, tokens) == len(tokens) for each in self._parked)

    def put(self, parked: Parked) -> None:
        """Keep a sequence that the shelf takes, in place of those that it goes on with."""
        self._parked = [each for each in self._parked if common_prefix(each.tokens, parked.tokens) < len(each.tokens)]
        self._parked.sort(key=lambda each: each.used)
        while self._parked and self.size + parked.size > self._limit:
            del self._parked[0]
        self._parked.append(parked)

    def best(self, prompt: Sequence[int]) -> tuple[Parked | None, int]:
        """Return the sequence that begins most like `prompt`, and for how many tokens."""
        found = max(self._parked, key=lambda each: common_prefix(each.tokens, prompt), default=None)
        return found, common_prefix(found.tokens, prompt) if found is not None else 0
