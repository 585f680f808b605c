"""Tell what a model thinks apart from what it answers: in the form of DeepSeek, Qwen and most that came after them.

The thoughts come first, between two marks; some templates write the first mark themselves, at the prompt's end.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from enum import Enum, auto

import msgspec

from rbee_runtime.worker.engines import Delta
from rbee_runtime.worker.engines.text import overlap

BEGIN, END = "<think>", "</think>"
THINKS = "enable_thinking"
"""The name by which most templates are told whether to think."""

CLOSED = f"\n{END}\n\n"
"""After a prompt that ends within thoughts: the model answers at once."""


class _At(Enum):
    START = auto()
    THOUGHT = auto()
    GAP = auto()
    ANSWER = auto()


class ThoughtReader:
    """Divides one answer; `inside` says that its prompt ends within thoughts. A mark in the midst of it is text."""

    def __init__(self, *, inside: bool) -> None:
        self._at = _At.THOUGHT if inside else _At.START
        self._held = ""
        self._thought_begun = False

    @property
    def thinking(self) -> bool:
        """Say whether what comes next is of the thoughts."""
        return self._at is _At.THOUGHT

    def push(self, text: str) -> tuple[str, str]:
        """Take more of the answer; return what is certain of the thoughts and of the answer."""
        self._held += text
        if self._at is _At.START:
            self._begin()
        thought = self._thought() if self._at is _At.THOUGHT else ""
        return thought, self._answer() if self._at in {_At.GAP, _At.ANSWER} else ""

    def finish(self) -> tuple[str, str]:
        """Return what was held back, as what it is by then."""
        held, self._held = self._held, ""
        if self._at is _At.THOUGHT:
            return self._shown(held), ""
        return "", held if self._at is not _At.GAP else ""

    def _begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(BEGIN):
            self._at, self._held = _At.THOUGHT, start.removeprefix(BEGIN)
        elif not BEGIN.startswith(start):
            self._at = _At.ANSWER

    def _thought(self) -> str:
        before, mark, after = self._held.partition(END)
        if mark:
            self._at, self._held = _At.GAP, after
            return self._shown(before).rstrip()
        # Space before the last mark belongs to neither.
        kept = max(overlap(before, END), len(before) - len(before.rstrip()))
        kept = max(kept, _spaced(before, kept))
        self._held = before[len(before) - kept :]
        return self._shown(before[: len(before) - kept])

    def _answer(self) -> str:
        if self._at is _At.GAP:
            self._held = self._held.lstrip()
            if not self._held:
                return ""
            self._at = _At.ANSWER
        text, self._held = self._held, ""
        return text

    def _shown(self, thought: str) -> str:
        shown = thought if self._thought_begun else thought.lstrip()
        self._thought_begun = self._thought_begun or bool(shown)
        return shown


def _spaced(text: str, kept: int) -> int:
    """Return how much is held back if the space before a held beginning of a mark is held as well."""
    rest = text[: len(text) - kept]
    return kept + len(rest) - len(rest.rstrip())


async def with_thoughts(deltas: AsyncIterator[Delta], *, inside: bool) -> AsyncGenerator[Delta, None]:
    """Yield the same answer with its thoughts apart and their tokens counted; `inside` as above."""
    readers: dict[int, ThoughtReader] = {}
    spent: dict[int, int] = {}
    async for delta in deltas:
        reader = readers.setdefault(delta.choice, ThoughtReader(inside=inside))
        before = reader.thinking
        thought, text = reader.push(delta.text)
        if before or reader.thinking:
            spent[delta.choice] = delta.produced
        if delta.finish is not None:
            last = reader.finish()
            thought, text = thought + last[0], text + last[1]
        usage = replace(delta.usage, thought=sum(spent.values())) if delta.usage is not None else None
        if thought or text or delta.finish is not None or delta.logprobs:
            yield msgspec.structs.replace(delta, thought=thought, text=text, usage=usage)
