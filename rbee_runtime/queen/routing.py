"""Which ready worker takes a request: the one with the fewest in flight, leaving out those that just failed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rbee_runtime.gateway.seam import Door

SHUN_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""How long a worker is left alone after its first, second, … failure in a row: a lost host costs few tries, and a
worker that is back is found again before its hive's next heartbeat or soon after."""


@dataclass(slots=True)
class Load:
    """Requests in flight on what several seats share."""

    in_flight: int = 0


@dataclass(slots=True)
class Seat:
    """One worker as routing sees it; `shunned` until that monotonic time, `used` rises with each lease.

    Seats of one `pool` share its slots: models of a server that is not ours, which has a `door`. What the roster knows
    of a worker itself (from `in_flight` on) stays when the rest of it is shown anew.
    """

    worker: str
    model: str
    url: str
    slots: int
    usable: bool
    pool: str = ""
    door: Door | None = None
    in_flight: int = 0
    failures: int = 0
    shunned: float = 0.0
    used: int = 0
    shared: Load | None = field(default=None, compare=False)

    @property
    def taken(self) -> int:
        """Return how many of its slots are taken."""
        return self.in_flight if self.shared is None else self.shared.in_flight

    def shown(self, seat: "Seat") -> None:
        """Take over what others say of it; one that is back is a worker like any other."""
        if seat.usable and not self.usable:
            self.failures, self.shunned = 0, 0.0
        self.model, self.url, self.slots, self.usable = seat.model, seat.url, seat.slots, seat.usable
        self.pool, self.door = seat.pool, seat.door


def choose(seats: Iterable[Seat]) -> Seat | None:
    """Return the seat with the fewest requests in flight; among equals the one that was used longest ago."""
    best: Seat | None = None
    least = used = 0
    for seat in seats:
        taken = seat.taken
        if taken < seat.slots and (best is None or (taken, seat.used) < (least, used)):
            best, least, used = seat, taken, seat.used
    return best


@dataclass
class Roster:
    """Every worker that exists, and what is in flight on it."""

    clock: Callable[[], float]
    _seats: dict[str, Seat] = field(default_factory=dict)
    _by_model: dict[str, tuple[Seat, ...]] = field(default_factory=dict)
    _uses: int = 0

    def show(self, seats: Sequence[Seat]) -> None:
        """Replace what is known of workers and keep what is in flight on them."""
        known, self._seats = self._seats, {}
        by_model: dict[str, list[Seat]] = defaultdict(list)
        for seat in seats:
            kept = known.get(seat.worker, seat)
            kept.shown(seat)
            self._seats[seat.worker] = kept
            by_model[seat.model].append(kept)
        self._by_model = {model: tuple(found) for model, found in by_model.items()}
        loads: dict[str, Load] = defaultdict(Load)
        for seat in self._seats.values():
            seat.shared = loads[seat.pool] if seat.pool else None
            if seat.shared is not None:
                seat.shared.in_flight += seat.in_flight

    def of(self, model: str) -> Sequence[Seat]:
        """Return the seats of one model."""
        return self._by_model.get(model, ())

    def shunned(self, seat: Seat) -> bool:
        """Say whether the worker is left alone now."""
        return seat.failures > 0 and seat.shunned > self.clock()

    def in_flight(self, worker: str) -> int:
        """Return how many requests it has from us."""
        seat = self._seats.get(worker)
        return 0 if seat is None else seat.in_flight

    def take(self, worker: str) -> None:
        """Count one more request."""
        seat = self._seats[worker]
        self._uses = seat.used = self._uses + 1
        seat.in_flight += 1
        if seat.shared is not None:
            seat.shared.in_flight += 1

    def give(self, worker: str) -> None:
        """Count one request less; the worker may be gone meanwhile."""
        seat = self._seats.get(worker)
        if seat is not None and seat.in_flight:
            seat.in_flight -= 1
            if seat.shared is not None:
                seat.shared.in_flight -= 1

    def settle(self, worker: str, *, answered: bool) -> None:
        """Note a success or a failure."""
        seat = self._seats.get(worker)
        if seat is None or (answered and not seat.failures):
            return
        seat.failures = 0 if answered else seat.failures + 1
        pause = SHUN_SECONDS[min(seat.failures, len(SHUN_SECONDS)) - 1] if seat.failures else 0.0
        seat.shunned = self.clock() + pause if seat.failures else 0.0
