"""Requests that wait for a worker: one line per model, first come first served."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.admission import Catalogue, Refusal, Route, admit, leaving, queue_full
from rbee_runtime.queen.routing import Roster

QUEUE_PER_SLOT = 8
QUEUE_MIN = 32
"""At most 8 waiting requests for each slot of a model, and room for 32 in any case."""

_TICK_SECONDS = 0.25
RETRY_SHARE, RETRY_START, RETRY_CAP = 0.2, 10.0, 30.0
"""One retry for five requests, and a stock that lets everything in flight on one dead worker move over."""


class SlotLease:
    """One slot of one worker."""

    def __init__(self, route: Route, model: str, lines: "Lines") -> None:
        self.worker = route.worker
        self.url = route.url
        self.door = route.door
        self._model = model
        self._lines = lines
        self._held = True

    def settle(self, *, answered: bool, reached: bool = True) -> None:
        """Note whether the worker did its part."""
        self._lines.roster.settle(self.worker, answered=answered)
        if not reached:
            self._lines.doubt(self.worker)

    def release(self) -> None:
        """Give the slot back and let the next one in line have it."""
        if self._held:
            self._held = False
            self._lines.roster.give(self.worker)
            self._lines.serve(self._model)


@dataclass(eq=False)
class _Waiter:
    ask: Ask
    future: asyncio.Future[SlotLease]
    since: float
    code: str | None


class Lines:
    """Hands out leases by `admit`; nobody overtakes."""

    def __init__(self, catalogue: Catalogue, roster: Roster, *, queue_wait: float, clock: Callable[[], float]) -> None:
        self.roster = roster
        self.doubt: Callable[[str], None] = lambda _: None
        self.wanted: Callable[[str], None] = lambda _: None
        self._catalogue = catalogue
        self._queue_wait = queue_wait
        self._clock = clock
        self._lines: dict[str, deque[_Waiter]] = {}
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

    async def lease(self, ask: Ask) -> SlotLease:
        """Return a lease, after waiting in line if that is worth it, or raise RequestError."""
        if not ask.tried:
            self._retries = min(self._retries + RETRY_SHARE, RETRY_CAP)
        verdict = self._admit(ask)
        if isinstance(verdict, Route) and (ask.tried or not self.waiting(ask.model)):
            return self._lease(verdict, ask.model)
        if isinstance(verdict, Refusal) and not verdict.wait:
            raise verdict.error
        return await self._wait(ask, verdict)

    def serve(self, model: str) -> None:
        """Let those in front have what is free now."""
        line = self._lines.get(model)
        while line:
            verdict = self._admit(line[0].ask)
            if isinstance(verdict, Refusal) and verdict.wait:
                return
            waiter = line.popleft()
            if waiter.future.done():
                continue
            if isinstance(verdict, Refusal):
                waiter.future.set_exception(verdict.error)
            else:
                waiter.future.set_result(self._lease(verdict, model))

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
            for waiter in tuple(self._lines[model]):
                self._judge(waiter)
            if not self._lines[model]:
                del self._lines[model]

    async def run(self) -> None:
        """Sweep while somebody waits, until cancelled."""
        while True:
            await self._somebody.wait()
            self.sweep()
            if not self._lines:
                self._somebody.clear()
            await asyncio.sleep(_TICK_SECONDS)

    def _admit(self, ask: Ask) -> Route | Refusal:
        verdict = admit(ask, self._catalogue, queue_wait=self._queue_wait)
        if self._leaving and isinstance(verdict, Refusal) and verdict.cold:
            return Refusal(leaving(ask.model))
        return verdict

    def _lease(self, route: Route, model: str) -> SlotLease:
        self.roster.take(route.worker)
        return SlotLease(route, model, self)

    async def _wait(self, ask: Ask, verdict: Route | Refusal) -> SlotLease:
        line = self._lines.setdefault(ask.model, deque())
        bound = max(QUEUE_MIN, QUEUE_PER_SLOT * sum(seat.slots for seat in self.roster.of(ask.model)))
        if len(line) >= bound:
            raise queue_full(ask.model, bound)
        code = verdict.error.code if isinstance(verdict, Refusal) else None
        waiter = _Waiter(ask, asyncio.get_running_loop().create_future(), self._clock(), code)
        # A retry was in front once already.
        (line.appendleft if ask.tried else line.append)(waiter)
        self._somebody.set()
        try:
            self.wanted(ask.model)
            return await waiter.future
        except asyncio.CancelledError:
            _hand_back(waiter.future)
            raise
        finally:
            if waiter in line:
                line.remove(waiter)

    def _judge(self, waiter: _Waiter) -> None:
        verdict = self._admit(waiter.ask)
        if waiter.future.done() or isinstance(verdict, Route):
            return
        if verdict.error.code != waiter.code:
            waiter.code, waiter.since = verdict.error.code, self._clock()
        if self._clock() - waiter.since >= verdict.wait:
            waiter.future.set_exception(verdict.error)
            self._lines[waiter.ask.model].remove(waiter)


def _hand_back(future: asyncio.Future[SlotLease]) -> None:
    """Release a lease that came in the very moment in which its client left."""
    if future.done() and not future.cancelled() and future.exception() is None:
        future.result().release()
