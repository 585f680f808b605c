"""The line of those who wait for one model: classes share the turns by weight, keys of a class equally.

Turns are counted in tokens, so that a key with long prompts does not take the time of those with short ones. The next
turn is of the class, and in it of the key, that had least of its share so far; who had none while nobody of it waited
saved nothing up. Weights rather than a strict order: a class above never leaves one below without turns, and nobody
waits in vain because others are more important.

The room in the line is shared by the same rule: when it is full, a newcomer of a key that has less than its share gets
the place of the last one of the key that has most.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rbee_runtime.queen.records import Priority

WEIGHTS = {Priority.INTERACTIVE: 16, Priority.NORMAL: 4, Priority.BATCH: 1}
"""Out of 21 turns, while all three wait."""


@dataclass(eq=False)
class Turn:
    """One that waits: whose it is and how many tokens it is thought to take."""

    key: str
    priority: Priority
    cost: int


T = TypeVar("T", bound=Turn)


@dataclass
class _Class(Generic[T]):
    """The keys of one class: those that wait in the order in which they began to, and how much each key has had.

    `now` is what the key of the last turn had had before it.
    """

    had: float = 0.0
    now: float = 0.0
    waiting: dict[str, deque[T]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def next_key(self) -> str:
        return min(self.waiting, key=self.shares.__getitem__)

    def add(self, turn: T) -> None:
        if turn.key not in self.waiting:
            self._forget()
            self.waiting[turn.key] = deque()
            self.shares[turn.key] = max(self.shares.get(turn.key, 0.0), self.now)
        self.waiting[turn.key].append(turn)

    def _forget(self) -> None:
        """Drop keys that do not wait and had no more than others, whose past makes no difference any more."""
        if len(self.shares) > 2 * len(self.waiting) + 16:
            kept = {key: had for key, had in self.shares.items() if key in self.waiting or had > self.now}
            self.shares = kept

    def drop(self, turn: T) -> None:
        line = self.waiting[turn.key]
        line.remove(turn)
        if not line:
            del self.waiting[turn.key]

    def count(self) -> int:
        return sum(len(line) for line in self.waiting.values())


class FairLine(Generic[T]):
    """Who waits for one model; those in front go first, whatever they cost: they had their turn once already."""

    def __init__(self) -> None:
        self.front: deque[T] = deque()
        self._classes: dict[Priority, _Class[T]] = {priority: _Class() for priority in Priority}
        self._now = 0.0
        self._size = 0

    def __len__(self) -> int:
        """Return how many wait, those in front included."""
        return self._size

    def __iter__(self) -> Iterator[T]:
        """Yield everyone, in no order that means anything."""
        yield from tuple(self.front)
        for each in self._classes.values():
            for line in tuple(each.waiting.values()):
                yield from tuple(line)

    def add(self, turn: T) -> None:
        """Let one wait for its turn."""
        own = self._classes[turn.priority]
        if not own.waiting:
            own.had = max(own.had, self._now)
        own.add(turn)
        self._size += 1

    def add_in_front(self, turn: T) -> None:
        """Let one go first."""
        self.front.appendleft(turn)
        self._size += 1

    def first(self) -> T | None:
        """Return whose turn it is, those in front aside; None if nobody else waits."""
        waiting = [priority for priority, each in self._classes.items() if each.waiting]
        if not waiting:
            return None
        own = self._classes[min(waiting, key=lambda priority: self._classes[priority].had)]
        return own.waiting[own.next_key()][0]

    def serve(self, turn: T) -> None:
        """Take one out because it gets what it waits for, at the cost of its key and class."""
        if turn not in self.front:
            own = self._classes[turn.priority]
            self._now, own.now = own.had, own.shares[turn.key]
            own.had += turn.cost / WEIGHTS[turn.priority]
            own.shares[turn.key] += turn.cost
        self.remove(turn)

    def remove(self, turn: T) -> None:
        """Take one out that has not got what it waits for; do nothing if it is out already."""
        own = self._classes[turn.priority]
        if turn in self.front:
            self.front.remove(turn)
        elif turn in own.waiting.get(turn.key, ()):
            own.drop(turn)
        else:
            return
        self._size -= 1

    def surplus(self, newcomer: Turn, held: Callable[[str], int]) -> T | None:
        """Return who has to go so that a newcomer finds room in a full line, None if it is the newcomer itself.

        `held` says how many slots of the model a key has: they count as its part, too.
        """
        sizes = {priority: each.count() / WEIGHTS[priority] for priority, each in self._classes.items()}
        mine = sizes.pop(newcomer.priority) + 1 / WEIGHTS[newcomer.priority]
        fullest = max(sizes, key=sizes.__getitem__)
        own = self._classes[newcomer.priority]
        if sizes[fullest] > mine:
            own = self._classes[fullest]
        parts = {key: len(line) + held(key) for key, line in own.waiting.items()}
        most = max(parts, key=parts.__getitem__, default=None)
        if most is None:
            return None
        other_class = own is not self._classes[newcomer.priority]
        if other_class or parts[most] > len(own.waiting.get(newcomer.key, ())) + held(newcomer.key) + 1:
            return own.waiting[most][-1]
        return None
