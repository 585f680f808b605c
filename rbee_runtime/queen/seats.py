"""Workers as routing sees them: what each has to do, and heaps of those that could take a request.

A heap costs as much for thousands as for eight. It holds old entries, too; one that no longer says what is true is
dropped where it comes to the top.
"""

from binascii import crc32
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush

from rbee_runtime.gateway.seam import Ask, Door
from rbee_runtime.queen.affinity import Cache
from rbee_runtime.queen.ejection import SOUND, Health

BOUND_PARTS, BOUND_OF = 5, 4
"""A worker with more than 5/4 of the mean of outstanding tokens gets no request for what is in its cache."""

_STALE = 64


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker as routing sees it; `context` is tokens of one sequence (0: not known), `build` the code that it runs.

    `revision` tells which model it runs, and how ("": not known); answers of one may be gone on with by its like.
    Seats of one `pool` share its slots: models of a server that is not ours, which has a `door`.
    """

    worker: str
    model: str
    url: str
    slots: int
    usable: bool
    in_flight: int = 0
    outstanding: int = 0
    failures: int = 0
    context: int = 0
    build: str = ""
    revision: str = ""
    pool: str = ""
    door: Door | None = None


class Lack(StrEnum):
    """Why no worker takes a request now."""

    ABSENT = "none is ready"
    OTHERS = "no other one is well"
    BUSY = "every slot is taken"
    UNFIT = "the prompt is too long for each"


@dataclass(eq=False, slots=True)
class Replica:
    """One worker: its seat, what it has to do, how it is, and where it stands among its like.

    `load` is the outstanding tokens of its requests, `used` rises with each lease, `answers` are those since the last
    failure, `trial` is the lease that tries it (0: none), `place` its index among its like. What is in flight on one of
    a pool counts for each of it.
    """

    seat: Seat
    number: int = 0
    in_flight: int = 0
    load: int = 0
    used: int = 0
    answers: int = 0
    trial: int = 0
    health: Health = SOUND
    pool: "Sequence[Replica]" = ()
    is_open: bool = False
    weight: int = 0
    place: int = 0
    cache: "Cache[Replica]" = field(init=False)
    shelf: "Shelf" = field(init=False)

    def __post_init__(self) -> None:
        self.number = crc32(self.seat.worker.encode())
        self.cache = Cache(self)

    def __lt__(self, other: "Replica") -> bool:
        """Have a heap hold a worker that is gone beside the one that has its name now."""
        return id(self) < id(other)

    @property
    def taken(self) -> int:
        """Return how many of its slots are taken."""
        return sum(each.in_flight for each in self.pool) if self.pool else self.in_flight

    @property
    def outstanding(self) -> int:
        """Return the tokens that it, with its pool, has to do."""
        return sum(each.load for each in self.pool) if self.pool else self.load

    def could(self, ask: Ask) -> bool:
        """Say whether it has a slot and a context for a request, were it well."""
        return self.taken < self.seat.slots and self.shelf.fits(ask.floor)

    def begin_anew(self) -> None:
        """Be another process at the same place: nothing is cached, nothing has failed."""
        self.cache.owner = None
        self.cache = Cache(self)
        self.health, self.answers, self.trial = SOUND, 0, 0


_Item = tuple[int, int, str, Replica]


class Shelf:
    """Those of one context that could take a request: how many, their outstanding tokens, the least loaded first."""

    __slots__ = ("context", "count", "heap", "members", "total")

    def __init__(self, context: int) -> None:
        self.context = context
        self.count = self.total = self.members = 0
        self.heap: list[_Item] = []

    def fits(self, tokens: int) -> bool:
        """Say whether a prompt of so many tokens has room in the context."""
        return not self.context or tokens <= self.context

    def put(self, replica: Replica) -> None:
        """Take note of what one that is open has to do now."""
        heap = self.heap
        if len(heap) > _STALE + 2 * self.count:
            heap[:] = {id(item[3]): item for item in heap if self._is_true(item)}.values()
            heapify(heap)
        heappush(heap, (replica.weight, replica.used, replica.seat.worker, replica))

    def least(self, tried: frozenset[str]) -> Replica | None:
        """Return the one with the fewest outstanding tokens; among equals the one that was used longest ago."""
        heap = self.heap
        while heap:
            item = heap[0]
            if self._is_true(item):
                return item[3] if item[3].seat.worker not in tried else self._other(tried)
            heappop(heap)
        return None

    def _other(self, tried: frozenset[str]) -> Replica | None:
        first = heappop(self.heap)
        found = self.least(tried)
        heappush(self.heap, first)
        return found

    def _is_true(self, item: _Item) -> bool:
        replica = item[3]
        return replica.is_open and replica.weight == item[0] and replica.used == item[1] and replica.shelf is self


def least_of(shelves: Sequence[Shelf], tried: frozenset[str]) -> Replica | None:
    """Return the least loaded of several shelves that a request has not tried."""
    if len(shelves) == 1:
        return shelves[0].least(tried)
    found = [each for shelf in shelves if (each := shelf.least(tried)) is not None]
    return min(found, key=lambda each: (each.weight, each.used), default=None)


def loads_of(shelves: Sequence[Shelf]) -> tuple[int, int]:
    """Return how many could take a request, and what they have to do together."""
    if len(shelves) == 1:
        return shelves[0].count, shelves[0].total
    return sum(shelf.count for shelf in shelves), sum(shelf.total for shelf in shelves)


def is_bearable(load: int, count: int, total: int) -> bool:
    """Say whether a worker has at most 5/4 of what each of so many has on average."""
    return load * count * BOUND_OF <= total * BOUND_PARTS
