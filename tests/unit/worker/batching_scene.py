"""A batcher without llama.cpp: what a context would hold, and steps by hand."""

import itertools

from rbee_runtime.worker.engines.llamacpp.batching import Batcher, Entry
from rbee_runtime.worker.engines.llamacpp.slots import Job, SlotState

ROOM = 64
END = -7
"""A token that no prompt of these tests has, as the answer."""


class FakeCells:
    """What a context would hold; refuses to cut a sequence if `whole` is set."""

    def __init__(self, slots: int, *, whole: bool = False) -> None:
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self._whole = whole
        self.full = False
        self.measured = 0
        self.saved = 0
        self.copied: list[tuple[int, int, int]] = []

    def keep(self, slot: int, count: int) -> int:
        if self._whole and 0 < count < len(self.held[slot]):
            count = 0
        del self.held[slot][count:]
        return count

    def copy(self, source: int, target: int, count: int) -> bool:
        assert not self.held[target]
        self.copied.append((source, target, count))
        self.held[target] = [] if self.full else self.held[source][:count]
        return not self.full

    def size(self, slot: int) -> int:
        self.measured += 1
        return len(self.held[slot])

    def save(self, slot: int) -> list[int]:
        self.saved += 1
        return list(self.held[slot])

    def load(self, slot: int, state: list[int]) -> bool:
        assert not self.held[slot]
        self.held[slot] = [] if self.full else list(state)
        return not self.full

    def compute(self, entries: list[Entry]) -> int:
        """Append a step's tokens and return how many there were; each has to go on where its sequence ends."""
        for entry in entries:
            assert entry.start == len(self.held[entry.slot.index])
            self.held[entry.slot.index] += entry.tokens
        return sum(len(entry.tokens) for entry in entries)


class Scene:
    """A batcher that is stepped by hand; `computed` counts tokens."""

    def __init__(
        self,
        *,
        slots: int = 2,
        batch: int = ROOM,
        shares_cells: bool = True,
        whole: bool = False,
        parking: int = 0,
        pooled: bool = True,
    ) -> None:
        ticks = itertools.count(1)
        self.cells = FakeCells(slots, whole=whole)
        self.batcher = Batcher(
            self.cells,
            slots=slots,
            batch=batch,
            shares=shares_cells,
            parking=parking,
            pooled=pooled,
            clock=lambda: float(next(ticks)),
        )
        self.computed = 0
        self._numbers = itertools.count(1)

    def ask(self, prompt: list[int], *, choice: int = 0) -> int:
        number = next(self._numbers)
        self.batcher.submit(Job(number, choice, prompt))
        return number

    def step(self, prompts: int = ROOM, whole: int = 0) -> list[tuple[int, int]]:
        """Run one step; return request and number of tokens of each entry."""
        entries = self.batcher.plan(prompts, whole)
        self.computed += self.cells.compute(entries)
        self.batcher.decoded(entries)
        done = [(entry.slot.job.request if entry.slot.job else 0, len(entry.tokens)) for entry in entries]
        for entry in entries:
            assert self.cells.held[entry.slot.index] == entry.slot.held
            if entry.sample:
                self.batcher.answer(entry.slot, END)
        return done

    def answer_all(self) -> None:
        """Compute all prompts and end all answers."""
        while self.batcher.busy or self.batcher.waiting:
            self.step()
            for slot in self.batcher.slots:
                if slot.state is SlotState.DECODE:
                    self.batcher.free(slot)


def numbers(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))
