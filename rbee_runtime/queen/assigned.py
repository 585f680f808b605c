"""The workers that are wanted, found by id, by model and by hive, and which of them changed of late. No effects."""

from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from dataclasses import dataclass
from itertools import count
from typing import overload

from rbee_runtime.queen.records import Assignment
from rbee_runtime.states import Intent, Observed


@dataclass(frozen=True, slots=True)
class Summary:
    """The workers of one model: how many there are, how many are ready and their slots; `gone` if each host is lost."""

    count: int
    ready: int
    slots: int
    gone: bool


class Assigned(MutableMapping[str, Assignment]):
    """In the order in which they came; a worker never changes its model or its hive."""

    def __init__(self, entries: Iterable[Assignment] = ()) -> None:
        self._entries: dict[str, Assignment] = {}
        self._by_model: dict[str, dict[str, Assignment]] = {}
        self._by_hive: dict[str, dict[str, Assignment]] = {}
        self._counts: dict[str, int] = {}
        self._turns: dict[str, int] = {}
        self._numbers = count()
        self._summaries: dict[str, Summary] = {}
        self._changed: dict[str, Assignment] = {}
        for entry in entries:
            self[entry.id] = entry

    def __getitem__(self, worker: str) -> Assignment:
        """Return one worker or raise KeyError."""
        return self._entries[worker]

    def __setitem__(self, worker: str, entry: Assignment) -> None:
        """Add or replace a worker."""
        if worker not in self._turns:
            self._turns[worker] = next(self._numbers)
            self._counts[entry.hive] = self._counts.get(entry.hive, 0) + 1
        self._entries[worker] = self._changed[worker] = entry
        self._summaries.pop(entry.spec.model, None)
        self._by_model.setdefault(entry.spec.model, {})[worker] = entry
        self._by_hive.setdefault(entry.hive, {})[worker] = entry

    def __delitem__(self, worker: str) -> None:
        """Release a worker or raise KeyError."""
        entry = self._changed[worker] = self._entries.pop(worker)
        self._counts[entry.hive] -= 1
        self._summaries.pop(entry.spec.model, None)
        del self._turns[worker], self._by_model[entry.spec.model][worker], self._by_hive[entry.hive][worker]

    def __iter__(self) -> Iterator[str]:
        """Yield the ids."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._entries)

    def values(self) -> ValuesView[Assignment]:
        """Return the workers."""
        return self._entries.values()

    def entries(self) -> "Entries":
        """Return the workers in their order, without a copy."""
        return Entries(self)

    def of(self, model: str) -> Collection[Assignment]:
        """Return the workers of a model."""
        return self._by_model.get(model, {}).values()

    def summary(self, model: str) -> Summary:
        """Return what the workers of a model amount to, worked out once after each change."""
        if model not in self._summaries:
            there = self.of(model)
            ready = [entry for entry in there if entry.observed is Observed.READY]
            slots, gone = sum(entry.capacity for entry in ready), all(entry.intent is Intent.LOST for entry in there)
            self._summaries[model] = Summary(len(there), len(ready), slots, gone)
        return self._summaries[model]

    def on(self, hive: str) -> Collection[Assignment]:
        """Return the workers on a hive."""
        return self._by_hive.get(hive, {}).values()

    def hives(self) -> list[str]:
        """Return the hives that have a worker."""
        return [hive for hive, there in self._by_hive.items() if there]

    def counts(self) -> Mapping[str, int]:
        """Return how many workers each hive has, as it is whenever somebody looks."""
        return self._counts

    def turn(self, worker: str) -> int:
        """Return a number that is larger for a worker that came later, 0 for one that is not there."""
        return self._turns.get(worker, 0)

    def take_changed(self) -> dict[str, Assignment]:
        """Return who came, changed or went since the last call, as they are or were."""
        changed, self._changed = self._changed, {}
        return changed


class Entries(Sequence[Assignment]):
    """The workers of `assigned`, as they are whenever somebody looks."""

    def __init__(self, assigned: Assigned) -> None:
        self.assigned = assigned

    @overload
    def __getitem__(self, index: int) -> Assignment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Assignment]: ...
    def __getitem__(self, index: int | slice) -> Assignment | Sequence[Assignment]:
        """Return one or some of them."""
        return tuple(self.assigned.values())[index]

    def __iter__(self) -> Iterator[Assignment]:
        """Yield them."""
        return iter(self.assigned.values())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.assigned)
