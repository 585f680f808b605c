"""Leases on workers: one line per model for those that have to wait, in the order of fairness.py."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask, Door
from rbee_runtime.queen.admission import Catalogue, Refusal, admit, leaving, queue_full
from rbee_runtime.queen.fairness import FairLine, Turn
from rbee_runtime.queen.limits import Charge, Limiter, plausible
from rbee_runtime.queen.records import Priority
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.seats import Seat
from rbee_runtime.queen.usage import Count, uncounted

QUEUE_PER_SLOT = 8
QUEUE_MIN = 32
"""At most 8 waiting requests for each slot of a model, and room for 32 in any case."""

_TICK_SECONDS = 0.25
RETRY_SHARE, RETRY_START, RETRY_CAP = 0.2, 10.0, 30.0
"""One retry for five requests, and a stock that lets everything in flight on one dead worker move over."""


class SlotLease:
    """One slot of one worker, and what its request took from the limits of its key."""

    def __init__(self, seat: Seat, ask: Ask, charge: Charge | None, lines: "Lines") -> None:
        self._estimate = lines.limiter.estimate(ask)
        self._load = _load(self._estimate, seat)
        self._number = lines.roster.take(seat.worker, self._load, ask.opening)
        self.worker = seat.worker
        self.url = seat.url
        self.door: Door | None = seat.door
        self.revision = seat.revision
        self._ask = ask
        self._charge = charge
        self._lines = lines
        self._tokens: tuple[int, int] | None = None
        self._answered = self._reached = self._held = True

    def settle(self, *, answered: bool, reached: bool = True) -> None:
        """Note whether the worker did its part."""
        self._answered, self._reached = answered, reached
        self._lines.roster.settle(self.worker, answered=answered, lease=self._number)
        if not reached:
            self._lines.doubt(self.worker)

    def spent(self, prompt: int, answer: int) -> None:
        """Note what the answer cost; what a server that is not ours says may be anything."""
        self._tokens = (plausible(prompt), plausible(answer))

    def release(self) -> None:
        """Give the slot back, account for what was done with it, and let the next one in line have it."""
        if self._held:
            self._held = False
            self._account()
            self._give()

    def unused(self) -> None:
        """Give the slot back: nobody is there for it."""
        if self._held:
            self._held = False
            _refund(self._charge)
            self._give()

    def _give(self) -> None:
        self._lines.roster.give(self.worker, self._load, self._number)
        self._lines.take_back(self._ask)

    def _account(self) -> None:
        tokens, failed = self._tokens, not self._answered and self._tokens is None
        if self._charge is not None:
            if tokens is not None:
                self._charge.correct(*tokens)
            elif failed:
                # Another try is charged anew, but is no further request unless this one never reached its worker.
                self._charge.refund(requests=not self._reached)
            self._charge.leave()
        self._lines.count(
            self._ask.key,
            self._ask.model,
            tokens or ((0, 0) if failed else self._estimate),
            request=self._reached and not self._ask.tried,
            error=not self._answered,
            estimated=tokens is None and not failed,
        )


@dataclass(eq=False)
class _Waiter(Turn):
    ask: Ask
    charge: Charge | None
    since: float
    code: str | None
    line: "FairLine[_Waiter]"
    future: asyncio.Future[SlotLease] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Lines:
    """Hands out leases by `admit` and within the limits of keys; nobody overtakes."""

    def __init__(
        self,
        catalogue: Catalogue,
        roster: Roster,
        *,
        queue_wait: float,
        clock: Callable[[], float],
        limiter: Limiter | None = None,
    ) -> None:
        self.roster = roster
        self.limiter = limiter or Limiter(catalogue.key, clock)
        self.doubt: Callable[[str], None] = lambda _: None
        self.count: Count = uncounted
        self.wanted: Callable[[str], None] = lambda _: None
        self.continues = catalogue.continues
        self._catalogue = catalogue
        self._queue_wait = queue_wait
        self._clock = clock
        self._lines: dict[str, FairLine[_Waiter]] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._retries = RETRY_START
        self._somebody = asyncio.Event()
        self._leaving = False

    def waiting(self, model: str) -> int:
        """Return how many requests wait for a model."""
        return len(self._lines.get(model, ()))

    def may_retry(self) -> bool:
        """Say whether the budget has one more retry, and take it."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True

    def ratelimit_headers(self, key: str) -> list[tuple[bytes, bytes]]:
        """Return the headers that tell a client what is left of its limits per minute; none for a key without."""
        return self.limiter.headers(key)

    def resolve(self, model: str) -> str:
        """Return the name of the model that clients may call so."""
        return self._catalogue.resolve(model)

    def at_once(self, ask: Ask) -> SlotLease | None:
        """Return a lease that is to be had without waiting, None if the request has to wait, or raise RequestError."""
        verdict = self._admit(ask)
        if isinstance(verdict, Seat) and (ask.tried or not self._lines.get(ask.model)):
            return self._lease(verdict, ask, self._enter(ask))
        if isinstance(verdict, Refusal) and not verdict.wait:
            raise verdict.error
        self.limiter.check(ask)
        self._make_room(self._turn(ask), ask, really=False)
        return None

    async def lease(self, ask: Ask) -> SlotLease:
        """Return a lease, after waiting in line if that is worth it, or raise RequestError."""
        return self.at_once(ask) or await self._wait(ask)

    def serve(self, model: str) -> None:
        """Let those whose turn it is have what is free now."""
        line = self._lines.get(model)
        if not line:
            return
        for other in tuple(line.front):
            # Another try may wait for other workers than everybody behind it.
            self._offer(line, other)
        while (waiter := line.first()) is not None and self._offer(line, waiter):
            pass

    def changed(self) -> None:
        """Serve every line after workers changed."""
        for model in tuple(self._lines):
            self.serve(model)

    def leave(self) -> None:
        """From now on nobody waits for a worker to become ready, because none reports to us; for a slot they do."""
        self._leaving = True
        self.changed()

    def sweep(self) -> None:
        """Serve every line and send away those that waited long enough for what they wait for."""
        for model in list(self._lines):
            self.serve(model)
            line = self._lines[model]
            for waiter in line:
                self._judge(line, waiter)
            if not line:
                del self._lines[model]

    async def run(self) -> None:
        """Sweep while somebody waits, until cancelled."""
        while True:
            await self._somebody.wait()
            self.sweep()
            if not self._lines:
                self._somebody.clear()
            await asyncio.sleep(_TICK_SECONDS)

    def take_back(self, ask: Ask) -> None:
        """Have a slot back, and serve those that wait for one."""
        place = (ask.model, ask.key)
        self._held[place] -= 1
        if not self._held[place]:
            del self._held[place]
        self.serve(ask.model)

    def _admit(self, ask: Ask) -> Seat | Refusal:
        if ask.revision:
            ask = self._of_one_revision(ask)
        verdict = admit(ask, self._catalogue, queue_wait=self._queue_wait)
        if self._leaving and isinstance(verdict, Refusal) and verdict.cold:
            return Refusal(leaving(ask.model))
        return verdict

    def _of_one_revision(self, ask: Ask) -> Ask:
        """Return a request that counts workers of another revision among those that it has tried."""
        seats = self._catalogue.seats(ask.model)
        others = frozenset(seat.worker for seat in seats if seat.revision != ask.revision)
        return msgspec.structs.replace(ask, tried=ask.tried | others)

    def _enter(self, ask: Ask) -> Charge | None:
        charge = self.limiter.enter(ask)
        if not ask.tried:
            self._retries = min(self._retries + RETRY_SHARE, RETRY_CAP)
        return charge

    def _lease(self, seat: Seat, ask: Ask, charge: Charge | None) -> SlotLease:
        place = (ask.model, ask.key)
        self._held[place] = self._held.get(place, 0) + 1
        return SlotLease(seat, ask, charge, self)

    def _offer(self, line: FairLine[_Waiter], waiter: _Waiter) -> bool:
        """Give one what is free or tell why there will be nothing; say whether it is out of the line then."""
        if waiter.future.done():
            line.remove(waiter)
            return True
        verdict = self._admit(waiter.ask)
        if isinstance(verdict, Seat):
            line.serve(waiter)
            waiter.future.set_result(self._lease(verdict, waiter.ask, waiter.charge))
        elif verdict.wait:
            return False
        else:
            line.remove(waiter)
            waiter.future.set_exception(verdict.error)
        return True

    async def _wait(self, ask: Ask) -> SlotLease:
        waiter = self._line_up(ask)
        try:
            self.wanted(ask.model)
            return await waiter.future
        except BaseException:
            waiter.line.remove(waiter)
            _undo(waiter)
            raise
        finally:
            # What it failed by refers to this frame: a cycle that would keep the request.
            del waiter

    def _line_up(self, ask: Ask) -> _Waiter:
        verdict, turn, charge = self._admit(ask), self._turn(ask), self._enter(ask)
        try:
            self._make_room(turn, ask, really=True)
        except RequestError:
            _refund(charge)
            raise
        code = verdict.error.code if isinstance(verdict, Refusal) else None
        line = self._lines.setdefault(ask.model, FairLine())
        waiter = _Waiter(turn.key, turn.priority, turn.cost, ask, charge, self._clock(), code, line)
        # Another try was in front once already.
        (line.add_in_front if ask.tried else line.add)(waiter)
        self._somebody.set()
        return waiter

    def _turn(self, ask: Ask) -> Turn:
        record = self._catalogue.key(ask.key)
        priority = record.priority if record is not None else Priority.BATCH
        return Turn(ask.key, priority, max(sum(self.limiter.estimate(ask)), 1))

    def _make_room(self, turn: Turn, ask: Ask, *, really: bool) -> None:
        """Find room in line for a newcomer, or raise RequestError; the retry budget alone bounds other tries."""
        line = self._lines.get(ask.model)
        if line is None or ask.tried:
            return
        bound = max(QUEUE_MIN, QUEUE_PER_SLOT * self.roster.slots(ask.model))
        if len(line) < bound:
            return
        gone = line.surplus(turn, lambda key: self._held.get((ask.model, key), 0))
        if gone is None:
            raise queue_full(ask.model, bound)
        if really:
            line.remove(gone)
            if not gone.future.done():
                gone.future.set_exception(queue_full(ask.model, bound))

    def _judge(self, line: FairLine[_Waiter], waiter: _Waiter) -> None:
        verdict = self._admit(waiter.ask)
        if waiter.future.done() or isinstance(verdict, Seat):
            return
        if verdict.error.code != waiter.code:
            waiter.code, waiter.since = verdict.error.code, self._clock()
        if self._clock() - waiter.since >= verdict.wait:
            waiter.future.set_exception(verdict.error)
            line.remove(waiter)


def _load(estimate: tuple[int, int], seat: Seat) -> int:
    """Return the tokens that a request is thought to cost a worker, which has no room for more than its context."""
    tokens = estimate[0] + estimate[1]
    return seat.context if 0 < seat.context < tokens else tokens


def _undo(waiter: _Waiter) -> None:
    """Take back what a request had that ends without a lease; one that came as its client left is given back."""
    future = waiter.future
    if future.done() and not future.cancelled() and future.exception() is None:
        future.result().unused()
    else:
        _refund(waiter.charge)


def _refund(charge: Charge | None) -> None:
    if charge is not None:
        charge.refund(requests=True)
        charge.leave()
