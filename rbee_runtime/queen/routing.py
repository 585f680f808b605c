"""Which ready worker takes a request: the one with the fewest in flight, leaving out those that just failed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from rbee_runtime.gateway.seam import Door

SHUN_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""How long a worker is left alone after its first, second, … failure in a row: a lost host costs few tries, and a
worker that is back is found again before its hive's next heartbeat or soon after."""


@dataclass(frozen=True)
class Seat:
    """One worker as routing sees it; `shunned` until that monotonic time, `used` rises with each lease.

    Seats of one `pool` share its slots: models of a server that is not ours, which has a `door`.
    """

    worker: str
    model: str
    url: str
    slots: int
    usable: bool
    in_flight: int = 0
    failures: int = 0
    shunned: float = 0.0
    used: int = 0
    pool: str = ""
    door: Door | None = None


def choose(seats: Iterable[Seat]) -> Seat | None:
    """Return the seat with the fewest requests in flight; among equals the one that was used longest ago."""
    free = (seat for seat in seats if seat.in_flight < seat.slots)
    return min(free, key=lambda seat: (seat.in_flight, seat.used), default=None)


@dataclass(slots=True, eq=False)
class _Entry:
    """A seat as it was shown and what became of it since; of a pool, what is in flight on each counts for all."""

    seat: Seat
    in_flight: int = 0
    failures: int = 0
    shunned: float = 0.0
    used: int = 0
    pool: "list[_Entry] | None" = None
    seen: Seat = field(init=False)

    def __post_init__(self) -> None:
        self.seen = self.seat

    @property
    def taken(self) -> int:
        """Return how many of its slots are taken."""
        return self.in_flight if self.pool is None else sum(each.in_flight for each in self.pool)

    def follow(self, seat: Seat) -> None:
        """Be another seat of the same worker; its failures are forgotten if it is back only now."""
        if seat.usable and not self.seat.usable:
            self.failures, self.shunned = 0, 0.0
        self.seat = self.seen = seat

    def now(self) -> Seat:
        """Return the seat as it is now; made anew only after a change, as everyone in line asks for it."""
        seen = self.seen
        state = (self.taken, self.failures, self.shunned, self.used)
        if (seen.in_flight, seen.failures, seen.shunned, seen.used) != state:
            in_flight, failures, shunned, used = state
            self.seen = replace(self.seat, in_flight=in_flight, failures=failures, shunned=shunned, used=used)
        return self.seen


class Roster:
    """Every worker that exists, and what is in flight on it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._entries: dict[str, _Entry] = {}
        self._models: dict[str, list[_Entry]] = {}
        self._pools: dict[str, list[_Entry]] = {}
        self._recent: set[str] = set()
        self._uses = 0

    def show(self, seats: Iterable[Seat], gone: Iterable[str] = ()) -> None:
        """Take in what is new of workers, and forget those that are gone; what is in flight on others is kept."""
        for worker in gone:
            self._forget(worker)
        for seat in seats:
            known = self._entries.get(seat.worker)
            if known is None:
                self._enter(seat)
            elif known.seat != seat:
                known.follow(seat)

    def _enter(self, seat: Seat) -> None:
        entry = self._entries[seat.worker] = _Entry(seat)
        self._models.setdefault(seat.model, []).append(entry)
        if seat.pool:
            entry.pool = self._pools.setdefault(seat.pool, [])
            entry.pool.append(entry)

    def _forget(self, worker: str) -> None:
        entry = self._entries.pop(worker, None)
        if entry is None:
            return
        self._models[entry.seat.model].remove(entry)
        if entry.pool is not None:
            entry.pool.remove(entry)

    def of(self, model: str) -> list[Seat]:
        """Return the seats of one model; what is in flight on one of a pool counts for each of it."""
        return [entry.now() for entry in self._models.get(model, ())]

    def slots(self, model: str) -> int:
        """Return how many requests the workers of one model take at a time."""
        return sum(entry.seat.slots for entry in self._models.get(model, ()))

    def free(self, model: str) -> Seat | None:
        """Return the seat that `choose` would of those that are usable and not left alone, None if there is none.

        In flight and uses are not up to date in it. Most requests ask nothing else, tens of thousands in a second.
        """
        best, least, now = None, (0, 0), 0.0
        for entry in self._models.get(model, ()):
            seat, taken = entry.seat, entry.taken
            if not seat.usable or taken >= seat.slots:
                continue
            if entry.failures and entry.shunned > (now := now or self.clock()):
                continue
            rank = (taken, entry.used)
            if best is None or rank < least:
                best, least = seat, rank
        return best

    def shunned(self, seat: Seat) -> bool:
        """Say whether the worker is left alone now."""
        return seat.shunned > self.clock()

    def in_flight(self, worker: str) -> int:
        """Return how many requests it has from us."""
        entry = self._entries.get(worker)
        return 0 if entry is None else entry.in_flight

    def busy(self) -> set[str]:
        """Return the workers that have requests from us."""
        return {worker for worker in self._recent if self.in_flight(worker)}

    def take_recent(self) -> set[str]:
        """Return the workers that had a request from us since the last call."""
        recent, self._recent = self._recent, self.busy()
        return recent

    def take(self, worker: str) -> None:
        """Count one more request."""
        self._uses += 1
        entry = self._entries[worker]
        entry.in_flight += 1
        entry.used = self._uses
        self._recent.add(worker)

    def give(self, worker: str) -> None:
        """Count one request less; the worker may be gone meanwhile."""
        entry = self._entries.get(worker)
        if entry is not None and entry.in_flight:
            entry.in_flight -= 1

    def settle(self, worker: str, *, answered: bool) -> None:
        """Note a success or a failure."""
        entry = self._entries.get(worker)
        if entry is None or (answered and not entry.failures):
            return
        entry.failures = 0 if answered else entry.failures + 1
        pause = SHUN_SECONDS[min(entry.failures, len(SHUN_SECONDS)) - 1] if entry.failures else 0.0
        entry.shunned = self.clock() + pause if entry.failures else 0.0
