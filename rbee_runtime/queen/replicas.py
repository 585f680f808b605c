"""The workers of one model: which of them takes the next request."""

from binascii import crc32
from collections.abc import Callable, Iterable, Sequence

from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.affinity import Homes, marks, rank
from rbee_runtime.queen.ejection import Breaker, Health, may_eject, pardoned, rested
from rbee_runtime.queen.limits import prompt_tokens
from rbee_runtime.queen.seats import Lack, Replica, Seat, Shelf, is_bearable, least_of, loads_of

EQUALS = 16
"""So many are asked which of them a prompt favours: all workers of a usual model, and of a huge one enough."""


class Replicas:
    """All workers of one model; `said` hears what becomes of one that was ejected."""

    def __init__(self, model: str, clock: Callable[[], float], homes: Homes[Replica]) -> None:
        self.members: list[Replica] = []
        self.slots = self.usable = 0
        self.said: Callable[[str, Replica], None] = lambda _event, _replica: None
        self._clock = clock
        self._homes = homes
        self._salt = crc32(model.encode())
        self._shelves: list[Shelf] = []
        self._by_context: dict[int, Shelf] = {}
        self._resting: dict[Replica, None] = {}
        self._wakes = 0.0
        self._marked: tuple[object, list[int]] = (None, [])

    def enter(self, replica: Replica) -> None:
        """Hold one more; `settle` follows."""
        replica.place = len(self.members)
        self.members.append(replica)
        self._count(replica)

    def leave(self, replica: Replica) -> None:
        """Hold one less; `settle` follows."""
        self._discount(replica)
        last = self.members.pop()
        if last is not replica:
            self.members[replica.place], last.place = last, replica.place

    def follow(self, replica: Replica, seat: Seat) -> None:
        """Have another seat be that of the same worker; one that is back only now, or elsewhere, begins anew."""
        self._discount(replica)
        before, replica.seat = replica.seat, seat
        if (seat.usable and not before.usable) or seat.url != before.url or seat.build != before.build:
            replica.begin_anew()
        self._count(replica)

    def settle(self) -> None:
        """Draw what follows from who came, changed and went."""
        if self._resting:
            self._pardon()
        self._wakes = self._next_wake()

    def _count(self, replica: Replica) -> None:
        seat = replica.seat
        self.slots += seat.slots
        self.usable += seat.usable
        shelf = self._by_context.get(seat.context)
        if shelf is None:
            shelf = self._by_context[seat.context] = Shelf(seat.context)
            self._shelves.append(shelf)
        shelf.members += 1
        replica.shelf = shelf
        if seat.usable and _rests(replica.health):
            self._resting[replica] = None
        self.refresh(replica)

    def _discount(self, replica: Replica) -> None:
        seat, shelf = replica.seat, replica.shelf
        self.slots -= seat.slots
        self.usable -= seat.usable
        self._resting.pop(replica, None)
        self._close(replica)
        shelf.members -= 1
        if not shelf.members:
            del self._by_context[shelf.context]
            self._shelves.remove(shelf)

    def refresh(self, replica: Replica) -> None:
        """Take note of what has changed of one."""
        shelf, seat = replica.shelf, replica.seat
        if replica.is_open:
            shelf.total -= replica.weight
            shelf.count -= 1
        if replica.pool:
            taken, load = replica.taken, replica.outstanding
        else:
            taken, load = replica.in_flight, replica.load
        replica.is_open = seat.usable and taken < seat.slots and replica not in self._resting
        if replica.is_open:
            replica.weight = load
            shelf.total += load
            shelf.count += 1
            shelf.put(replica)

    def change(self, replica: Replica, health: Health) -> None:
        """Have one be well or not."""
        replica.health = health
        if replica.seat.usable and _rests(health):
            self._resting[replica] = None
        else:
            self._resting.pop(replica, None)
        self._wakes = self._next_wake()
        self.refresh(replica)

    def is_spared(self) -> bool:
        """Say whether nobody may be ejected now, as too few others would be left."""
        return not may_eject(sum(each.health.is_ejected for each in self._resting), self.usable)

    def note(self, opening: bytes, replica: Replica) -> None:
        """Remember who gets a prompt that begins so."""
        if len(self.members) > 1 and opening:
            self._homes.note(self._marks(opening), replica.cache)

    def choose(self, ask: Ask) -> Replica | Lack:
        """Return who takes a request, or why nobody does."""
        if self._resting:
            self._wake()
            trial = None if ask.tried else self._trial(ask)
            if trial is not None:
                return trial
        shelves = self._shelves if len(self._shelves) == 1 and not ask.floor else self._fitting(ask)
        # Where a prompt that failed is cached it failed.
        if ask.opening and self.usable > 1 and not ask.tried:
            return self._favourite(ask, shelves) or self._pressed(ask)
        return least_of(shelves, ask.tried) or self._pressed(ask)

    def longest(self) -> int:
        """Return the longest context, 0 if one is not known."""
        return max(self._by_context, default=0) if all(self._by_context) else 0

    def _fitting(self, ask: Ask) -> list[Shelf]:
        """Return those whose context is long enough; where some are likely to be, only those."""
        sure = [shelf for shelf in self._shelves if shelf.count and shelf.fits(ask.floor)]
        likely = [shelf for shelf in sure if shelf.fits(prompt_tokens(ask)) and shelf.least(ask.tried) is not None]
        return likely or sure

    def _favourite(self, ask: Ask, shelves: Sequence[Shelf]) -> Replica | None:
        """Return who has the beginning of a prompt, within the bound, else whom of the least loaded it favours."""
        found = self._marks(ask.opening)
        home = self._homes.find(found)
        if home is not None and home.is_open and home.shelf in shelves and is_bearable(home.weight, *loads_of(shelves)):
            return home
        least = least_of(shelves, ask.tried)
        if least is None or not found:
            return least
        equals = [each for each in self._some(found[0]) if each.is_open and each.weight == least.weight]
        if len(self._shelves) > 1:
            equals = [each for each in equals if each.shelf in shelves]
        return max(equals, key=lambda each: rank(found[-1], each.number), default=least)

    def _some(self, mark: int) -> Iterable[Replica]:
        members, count = self.members, len(self.members)
        if count <= EQUALS:
            return members
        return (members[(mark + step) % count] for step in range(EQUALS))

    def _marks(self, opening: bytes) -> list[int]:
        # Asked for by the choice and by the lease that follows from it.
        if self._marked[0] is not opening:
            self._marked = (opening, marks(opening, self._salt))
        return self._marked[1]

    def _trial(self, ask: Ask) -> Replica | None:
        """Return one that was ejected for long enough: this request tries it."""
        for each in self._resting:
            if each.health.state is Breaker.HALF_OPEN and not each.trial and each.could(ask):
                return each
        return None

    def _pressed(self, ask: Ask) -> Replica | Lack:
        """Return what nobody who is well can take: why, or who takes it all the same."""
        if ask.floor and not any(each.shelf.fits(ask.floor) for each in self.members):
            return Lack.UNFIT
        if not self.usable:
            return Lack.ABSENT
        if not ask.tried and not ask.floor and self.usable > len(self._resting):
            return Lack.BUSY
        return self._last_resort(ask)

    def _last_resort(self, ask: Ask) -> Replica | Lack:
        fit = [each for each in self.members if each.seat.usable and each.shelf.fits(ask.floor)]
        if not fit:
            return Lack.ABSENT
        well = [each for each in fit if each not in self._resting and each.seat.worker not in ask.tried]
        if well or ask.tried:
            return Lack.BUSY if well else Lack.OTHERS
        # All of them failed just now: better one that may fail than a refusal that is sure.
        left = [each for each in fit if not each.health.is_ejected and each.could(ask)]
        return min(left, key=lambda each: (each.outstanding, each.used), default=Lack.BUSY)

    def _wake(self) -> None:
        now = self._clock()
        if now < self._wakes:
            return
        for each in [each for each in self._resting if each.health.until <= now]:
            health = rested(each.health, now)
            if health is not each.health:
                each.health = health
                self.said("worker on trial", each)
            elif not health.is_ejected:
                del self._resting[each]
                self.refresh(each)
        self._wakes = self._next_wake()

    @staticmethod
    def _close(replica: Replica) -> None:
        if replica.is_open:
            replica.shelf.total -= replica.weight
            replica.shelf.count -= 1
            replica.is_open = False

    def _next_wake(self) -> float:
        waits = (each.health.until for each in self._resting if each.health.state is not Breaker.HALF_OPEN)
        return min(waits, default=float("inf"))

    def _pardon(self) -> None:
        """Let those back whose turn is next while more than half are out, since others have gone."""
        out = sorted((each for each in self._resting if each.health.is_ejected), key=lambda each: each.health.until)
        for each in out[: max(0, len(out) - self.usable // 2)]:
            each.health, each.trial = pardoned(each.health), 0
            del self._resting[each]
            self.refresh(each)
            self.said("worker readmitted", each)


def _rests(health: Health) -> bool:
    return health.is_ejected or health.until > 0.0
