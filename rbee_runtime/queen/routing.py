"""Which ready worker takes a request: replicas.py chooses, ejection.py judges failures, and this knows them all."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rbee_runtime import logs
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.affinity import Homes
from rbee_runtime.queen.ejection import SOUND, Breaker, Health, after_answer, after_failure
from rbee_runtime.queen.replicas import Replicas
from rbee_runtime.queen.seats import Lack, Replica, Seat


class Roster:
    """Every worker that exists, and what is in flight on it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._replicas: dict[str, Replica] = {}
        self._models: dict[str, Replicas] = {}
        self._pools: dict[str, list[Replica]] = {}
        self._homes: Homes[Replica] = Homes()
        self._recent: set[str] = set()
        self._uses = 0

    def show(self, seats: Iterable[Seat], gone: Iterable[str] = ()) -> None:
        """Take in what is new of workers, and forget those that are gone; what is in flight on others is kept."""
        touched: set[str] = set()
        for worker in gone:
            self._forget(worker, touched)
        for seat in seats:
            known = self._replicas.get(seat.worker)
            if known is None:
                self._enter(seat, touched)
            elif known.seat == seat:
                continue
            elif (known.seat.model, known.seat.pool) == (seat.model, seat.pool):
                self._models[seat.model].follow(known, seat)
                touched.add(seat.model)
            else:
                self._forget(seat.worker, touched)
                self._enter(seat, touched)
        for model in touched:
            self._models[model].settle()
            if not self._models[model].members:
                del self._models[model]

    def _enter(self, seat: Seat, touched: set[str]) -> None:
        each = self._replicas[seat.worker] = Replica(seat)
        if seat.pool:
            each.pool = self._pools.setdefault(seat.pool, [])
            self._pools[seat.pool].append(each)
        (self._models.get(seat.model) or self._new(seat.model)).enter(each)
        touched.add(seat.model)

    def _forget(self, worker: str, touched: set[str]) -> None:
        each = self._replicas.pop(worker, None)
        if each is None:
            return
        each.cache.owner = None
        self._models[each.seat.model].leave(each)
        touched.add(each.seat.model)
        if each.pool:
            mates = self._pools[each.seat.pool]
            mates.remove(each)
            # What was in flight on one of a pool counted for each of it.
            self._refresh(mates)
            if not mates:
                del self._pools[each.seat.pool]

    def of(self, model: str) -> list[Seat]:
        """Return the seats of one model; what is in flight on one of a pool counts for each of it."""
        found = self._models.get(model)
        return [] if found is None else [_now(each) for each in found.members]

    def slots(self, model: str) -> int:
        """Return how many requests the workers of one model take at a time."""
        found = self._models.get(model)
        return 0 if found is None else found.slots

    def longest(self, model: str) -> int:
        """Return the longest context that a worker of one model has, in tokens, 0 if one is not known."""
        found = self._models.get(model)
        return 0 if found is None else found.longest()

    def choose(self, ask: Ask) -> Seat | Lack:
        """Return who takes a request, or why nobody does; what is in flight is not up to date in a seat."""
        found = self._models.get(ask.model)
        if found is None:
            return Lack.ABSENT
        chosen = found.choose(ask)
        return chosen.seat if isinstance(chosen, Replica) else chosen

    def in_flight(self, worker: str) -> int:
        """Return how many requests it has from us."""
        each = self._replicas.get(worker)
        return 0 if each is None else each.in_flight

    def outstanding(self, worker: str) -> int:
        """Return how many tokens its requests from us are thought to have left."""
        each = self._replicas.get(worker)
        return 0 if each is None else each.load

    def health(self, worker: str) -> Health:
        """Return what is held of it after its failures."""
        each = self._replicas.get(worker)
        return SOUND if each is None else each.health

    def rests(self, worker: str) -> float | None:
        """Return for how many seconds more it gets no requests as it failed, None if it gets some."""
        health = self.health(worker)
        return max(0.0, health.until - self.clock()) if health.is_ejected else None

    def leases(self, worker: str) -> int:
        """Return a number that is another one after each lease on a worker."""
        each = self._replicas.get(worker)
        return 0 if each is None else each.used

    def busy(self) -> set[str]:
        """Return the workers that have requests from us."""
        return {worker for worker in self._recent if self.in_flight(worker)}

    def take_recent(self) -> set[str]:
        """Return the workers that had a request from us since the last call."""
        recent, self._recent = self._recent, self.busy()
        return recent

    def take(self, worker: str, tokens: int = 1, opening: bytes = b"") -> int:
        """Count one more request of so many tokens; return the number of its lease."""
        self._uses = used = self._uses + 1
        each = self._replicas[worker]
        each.in_flight += 1
        each.load += tokens
        each.used = used
        self._recent.add(worker)
        if each.health is not SOUND and each.health.state is Breaker.HALF_OPEN and not each.trial:
            each.trial = used
        mine = self._models[each.seat.model]
        mine.note(opening, each)
        mine.refresh(each)
        if each.pool:
            self._refresh(each.pool)
        return used

    def give(self, worker: str, tokens: int = 1, lease: int = 0) -> None:
        """Count one request less; the worker may be gone meanwhile."""
        each = self._replicas.get(worker)
        if each is None or not each.in_flight:
            return
        each.in_flight -= 1
        each.load = max(0, each.load - tokens) if each.in_flight else 0
        if lease and each.trial == lease:
            # Its client left, or it was judged already: the next one tries, if there is still something to try.
            each.trial = 0
        self._models[each.seat.model].refresh(each)
        if each.pool:
            self._refresh(each.pool)

    def settle(self, worker: str, *, answered: bool, lease: int = 0) -> None:
        """Note a success or a failure."""
        each = self._replicas.get(worker)
        if each is None or (answered and each.health is SOUND):
            return
        if answered:
            each.answers += 1
        health = self._judged(each, trial=bool(lease) and each.trial == lease, answered=answered)
        if health is not each.health:
            before = each.health
            self._models[each.seat.model].change(each, health)
            self._tell(each, before)

    def _judged(self, each: Replica, *, trial: bool, answered: bool) -> Health:
        """Return what the end of a request makes of its worker."""
        if answered:
            return after_answer(each.health, self.clock(), trial=trial) if each.health.failures else each.health
        answers, each.answers = each.answers, 0
        spared = self._models[each.seat.model].is_spared()
        return after_failure(each.health, self.clock(), answers=answers, trial=trial, spared=spared)

    def _refresh(self, pool: Sequence[Replica]) -> None:
        for mate in pool:
            self._models[mate.seat.model].refresh(mate)

    def _new(self, model: str) -> Replicas:
        made = self._models[model] = Replicas(model, self.clock, self._homes)
        made.said = lambda event, each: logs.info(event, id=each.seat.worker, model=each.seat.model)
        return made

    def _tell(self, each: Replica, before: Health) -> None:
        """Write what a person may want to know: who gets no requests, for how long, and who does again."""
        health, seat = each.health, each.seat
        if health.state is Breaker.OPEN:
            seconds = round(health.until - self.clock())
            logs.warning("worker ejected", id=seat.worker, model=seat.model, failures=health.failures, seconds=seconds)
        elif before.is_ejected:
            logs.info("worker back", id=seat.worker, model=seat.model)


def _now(each: Replica) -> Seat:
    return replace(each.seat, in_flight=each.taken, outstanding=each.outstanding, failures=each.health.failures)
