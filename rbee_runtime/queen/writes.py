"""The controller's writes: in their order, together where several wait, and on a thread while the queen serves.

A disk takes some 10 to 30 ms for what shall outlive a loss of power. Nobody's answer waits for that: what is planned is
in force at once, and only what leaves the queen (a document for a hive, the answer to a change) waits until it is
written. Where it cannot be written she goes on from memory and says so; what a full disk refused is tried again.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rbee_runtime import logs
from rbee_runtime.errors import StateError
from rbee_runtime.queen.store import Store, may_pass

RETRY_SECONDS = 5.0

MOST_KEPT = 10_000
"""Writes that are kept for a disk that takes none: of a thousand hives those of some hours. Older ones go."""

FEW = 256
"""So many that were refused are tried again with each new one: the answer to a change may say that it is written."""

SLOW_SECONDS = 5.0
"""A write that takes longer is told at `/ready`; a disk that hangs refuses nothing."""


@dataclass(frozen=True, slots=True)
class _Write:
    call: Callable[[], None]
    durable: bool


class Writes:
    """Until `run` begins and once it has ended, each write is carried out by whoever puts it."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._said = store.problem
        self._store = store
        self._clock = clock
        self._waiting: deque[_Write] = deque()
        self._kept: list[_Write] = []
        self._turn = threading.Lock()
        self._apart = False
        self._put = self._tried = 0
        self._began: float | None = None
        self._after: deque[tuple[int, Callable[[], None]]] = deque()
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()

    @property
    def problem(self) -> str:
        """Return why what was put last is not written, "" where it is or will be in a moment."""
        began = self._began
        taken = self._clock() - began if began is not None else 0.0
        if taken < SLOW_SECONDS:
            return self._said
        return f"the disk with the queen's database has not taken a write for {taken:.0f} s; look at that disk"

    def put(self, write: Callable[[], None], *, durable: bool = True) -> None:
        """Have something written; what is not `durable` may be lost with the power, not with the process."""
        self._waiting.append(_Write(write, durable))
        self._put += 1
        if self._apart:
            self._wake.set()
        else:
            self._carry_out()
            self._tell()

    def after(self, call: Callable[[], None]) -> None:
        """Call back once all that was put so far is written or cannot be."""
        self._after.append((self._put, call))
        self._tell()

    async def settled(self) -> None:
        """Return once all that was put so far is written or cannot be."""
        target = self._put
        while self._tried < target:
            await self._turned.wait()

    async def run(self) -> None:
        """Write on a thread until cancelled, and then what is left."""
        self._apart = True
        try:
            while True:
                again = await self._wait()
                self._wake.clear()
                self._began = self._clock()
                await asyncio.to_thread(self._carry_out, again=again)
                self._began = None
                self._tell()
        finally:
            self._apart, self._began = False, None
            self._carry_out()
            self._tell()

    async def _wait(self) -> bool:
        """Return when something was put, or say that it is time to try again what was refused."""
        try:
            async with asyncio.timeout(RETRY_SECONDS if self._kept else None):
                await self._wake.wait()
        except TimeoutError:
            return True
        return False

    def _tell(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()
        while self._after and self._after[0][0] <= self._tried:
            self._after.popleft()[1]()

    def _carry_out(self, *, again: bool = True) -> None:
        """Write what waits; a thread and its owner may both come here while a queen leaves.

        Behind much that was refused nothing is tried until it is time `again`: each try is all of it.
        """
        with self._turn:
            # More may be put meanwhile, by the thread that serves.
            new = [self._waiting.popleft() for _ in range(len(self._waiting))]
            batch = [*self._kept, *new]
            try:
                if batch and (again or len(self._kept) <= FEW):
                    batch, problem = self._write(batch)
                    self._note(problem)
                self._kept = batch[-MOST_KEPT:]
                if len(batch) > MOST_KEPT:
                    logs.error("state lost", writes=len(batch) - MOST_KEPT, why=self._said)
            finally:
                self._tried += len(new)

    def _write(self, batch: list[_Write]) -> tuple[list[_Write], str]:
        """Return what is to be tried again, and what went wrong."""
        try:
            with self._store.together(durable=any(each.durable for each in batch)):
                for each in batch:
                    each.call()
        except StateError as error:
            if may_pass(error):
                return batch, str(error)
            return ([], str(error)) if len(batch) == 1 else self._one_by_one(batch)
        return [], ""

    def _one_by_one(self, batch: list[_Write]) -> tuple[list[_Write], str]:
        """Write what can be: what is wrong with one costs no other, and none goes ahead of an earlier one."""
        problem = ""
        for number, each in enumerate(batch):
            kept, said = self._write([each])
            problem = said or problem
            if kept:
                return batch[number:], problem
        return [], problem

    def _note(self, problem: str) -> None:
        if problem and problem != self._said:
            logs.error("state not saved", why=problem)
        self._said = problem
