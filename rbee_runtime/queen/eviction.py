"""Which workers make room for another model's. Pure.

A worker is shielded from that                     for how long
it is to stay loaded, or one of the minimum        as long as the inventory says so
it is not ready                                    until it is: it is loaded for somebody
it has been ready for less than 30 s               until then, or models would take turns without serving anybody
a neighbour measures the memory of its device      until that has loaded: memory that comes free misleads it
it has requests, or its model has some in line     until they have ended; where a load has waited long for room, busy
                                                   workers take no new requests, so that this comes about

Of those without a shield the smallest set goes that makes room; among those of one size the one with the highest sum
of: bytes that help x seconds without a request / seconds that a reload takes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

MIN_RESIDENCY = 30.0
STARVED_SECONDS = 30.0
"""A load that has waited for room for so long has busy workers emptied for it."""

POOL, LARGEST = 12, 4
"""Sets are tried out among so many of the best candidates, up to this size; larger ones are put together greedily."""


class Shield(StrEnum):
    """Why a worker does not make room; the words go into sentences after a number."""

    NONE = ""
    MINIMUM = "kept by its model's minimum"
    KEPT = "to stay loaded"
    LOADING = "not ready yet"
    YOUNG = "ready for less than 30 s"
    MEASURED = "beside one that measures memory"
    BUSY = "with requests"

    @property
    def lasts(self) -> bool:
        """Say whether it goes on until somebody changes the inventory."""
        return self in {Shield.MINIMUM, Shield.KEPT}


@dataclass(frozen=True)
class Candidate:
    """A worker that may go: bytes by device, seconds without a request and of its load."""

    worker: str
    model: str
    sizes: Mapping[str, int]
    idle: float = 0.0
    reload: float = 0.0
    preferred: bool = False

    def worth(self, short: Mapping[str, int]) -> float:
        """Return how good it is to let this one go; a second is added so that zeroes do not hide sizes."""
        helps = sum(min(self.sizes.get(device, 0), missing) for device, missing in short.items())
        return helps * (self.idle + 1.0) / (self.reload + 1.0)


def choose(
    short: Mapping[str, int], candidates: Iterable[Candidate], spare: Mapping[str, int]
) -> tuple[Candidate, ...] | None:
    """Return who goes so that nothing is `short` (bytes by device) any more, or None if that cannot be.

    `spare` is how many workers each model can do without.
    """
    useful = [each for each in candidates if any(each.sizes.get(device, 0) for device in short)]
    if not clears(short, useful):
        return None
    # Those that were asked already to empty themselves go first: a choice that flips empties everybody.
    ranked = sorted(useful, key=lambda each: (not each.preferred, -each.worth(short), each.worker))
    for size in range(1, LARGEST + 1):
        sets = [found for found in combinations(ranked[:POOL], size) if _makes_room(short, found, spare)]
        if sets:
            return max(sets, key=lambda found: _value(found, short))
    return _greedy(short, ranked, spare)


def clears(short: Mapping[str, int], leaving: Collection[Candidate]) -> bool:
    """Say whether there is room once these have gone."""
    return all(sum(each.sizes.get(device, 0) for each in leaving) >= missing for device, missing in short.items())


def _makes_room(short: Mapping[str, int], leaving: Sequence[Candidate], spare: Mapping[str, int]) -> bool:
    return clears(short, leaving) and _spared(leaving, spare)


def _spared(leaving: Sequence[Candidate], spare: Mapping[str, int]) -> bool:
    models = [each.model for each in leaving]
    return all(models.count(model) <= spare.get(model, 0) for model in set(models))


def _value(leaving: Sequence[Candidate], short: Mapping[str, int]) -> tuple[int, float]:
    return sum(each.preferred for each in leaving), sum(each.worth(short) for each in leaving)


def _greedy(
    short: Mapping[str, int], ranked: Sequence[Candidate], spare: Mapping[str, int]
) -> tuple[Candidate, ...] | None:
    taken: list[Candidate] = []
    for each in ranked:
        if not clears(short, taken) and _spared([*taken, each], spare):
            taken.append(each)
    if not clears(short, taken):
        return None
    for each in reversed(tuple(taken)):
        rest = [other for other in taken if other is not each]
        if clears(short, rest):
            taken = rest
    return tuple(taken)
