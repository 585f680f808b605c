"""The phases of one worker process and the requests that it has in hand.

loading → ready → draining        loading → draining (asked to stop before it was ready)
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from rbee_runtime.errors import EngineCrashedError, NotTakenError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines import Engine
from rbee_runtime.worker.metrics import Metrics


class Phase(StrEnum):
    """What the worker does with a request: refuse, answer, or finish what it has."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.LOADING: frozenset({Phase.READY, Phase.DRAINING}),
    Phase.READY: frozenset({Phase.DRAINING}),
    Phase.DRAINING: frozenset(),
}


class Worker:
    """One model being served. `cut` is set when requests in hand must end now; `broken` says why the engine is dead."""

    def __init__(self, spec: WorkerSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine
        self.phase = Phase.LOADING
        self.metrics = Metrics()
        self.progress = 0.0
        self.in_flight = 0
        self.cut = asyncio.Event()
        self.stop = asyncio.Event()
        self.broken: EngineCrashedError | None = None
        self.born = time.monotonic()
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self, phase: Phase) -> None:
        """Go to a phase if the table allows it; a stop that comes twice is one stop."""
        if phase in TRANSITIONS[self.phase]:
            self.phase = phase

    def ask_to_stop(self) -> None:
        """Have the process end when the requests in hand are answered, or at once if it was asked before."""
        if self.stop.is_set():
            self.cut.set()
        self.stop.set()

    def demand_ready(self) -> None:
        """Raise NotTakenError (503) unless requests are taken."""
        if self.phase is Phase.LOADING:
            raise _unready(f"model {self.spec.model} is loading ({self.progress:.0%})", "model_loading")
        if self.phase is Phase.DRAINING:
            raise _unready("this worker is draining", "worker_draining")
        if trouble := self.engine.trouble:
            raise _unready(f"this worker answers nothing now: {trouble}", "engine_stalled")

    @contextmanager
    def flight(self) -> Iterator[None]:
        """Count one request in hand."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    def fail(self, error: EngineCrashedError) -> None:
        """Note that the engine is beyond use and ask the process to end."""
        self.broken = self.broken or error
        self.stop.set()

    async def wait_idle(self, seconds: float) -> bool:
        """Say whether all requests in hand ended within `seconds`."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _unready(message: str, code: str) -> NotTakenError:
    return NotTakenError(503, message, kind="server_error", code=code, retry_after=1)
