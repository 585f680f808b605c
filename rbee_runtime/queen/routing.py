"""Which ready worker takes a request: the one with the fewest in flight, leaving out those that just failed."""

from collections.abc import Callable, Iterable, Sequence
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


@dataclass
class Roster:
    """Every worker that exists, and what is in flight on it."""

    clock: Callable[[], float]
    _seats: dict[str, Seat] = field(default_factory=dict)
    _uses: int = 0

    def show(self, seats: Sequence[Seat]) -> None:
        """Replace what is known of workers and keep what is in flight on them."""
        shown: dict[str, Seat] = {}
        for seat in seats:
            old = self._seats.get(seat.worker, seat)
            back = seat.usable and not old.usable
            shown[seat.worker] = replace(
                seat,
                in_flight=old.in_flight,
                used=old.used,
                failures=0 if back else old.failures,
                shunned=0.0 if back else old.shunned,
            )
        self._seats = shown

    def of(self, model: str) -> list[Seat]:
        """Return the seats of one model; what is in flight on one of a pool counts for each of it."""
        return [self._pooled(seat) for seat in self._seats.values() if seat.model == model]

    def _pooled(self, seat: Seat) -> Seat:
        if not seat.pool:
            return seat
        return replace(seat, in_flight=sum(each.in_flight for each in self._seats.values() if each.pool == seat.pool))

    def shunned(self, seat: Seat) -> bool:
        """Say whether the worker is left alone now."""
        return seat.shunned > self.clock()

    def in_flight(self, worker: str) -> int:
        """Return how many requests it has from us."""
        seat = self._seats.get(worker)
        return 0 if seat is None else seat.in_flight

    def leases(self, worker: str) -> int:
        """Return a number that is another one after each lease on a worker."""
        seat = self._seats.get(worker)
        return 0 if seat is None else seat.used

    def take(self, worker: str) -> None:
        """Count one more request."""
        self._uses += 1
        seat = self._seats[worker]
        self._seats[worker] = replace(seat, in_flight=seat.in_flight + 1, used=self._uses)

    def give(self, worker: str) -> None:
        """Count one request less; the worker may be gone meanwhile."""
        seat = self._seats.get(worker)
        if seat is not None:
            self._seats[worker] = replace(seat, in_flight=max(seat.in_flight - 1, 0))

    def settle(self, worker: str, *, answered: bool) -> None:
        """Note a success or a failure."""
        seat = self._seats.get(worker)
        if seat is None or (answered and not seat.failures):
            return
        failures = 0 if answered else seat.failures + 1
        pause = SHUN_SECONDS[min(failures, len(SHUN_SECONDS)) - 1] if failures else 0.0
        self._seats[worker] = replace(seat, failures=failures, shunned=self.clock() + pause if failures else 0.0)
