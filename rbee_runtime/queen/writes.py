"""The controller's writes: in their order, together where several wait, and on a thread while the queen serves.

A disk takes some 10 to 30 ms for what shall outlive a loss of power. Nobody's answer waits for that: what is planned is
in force at once, and only what leaves the queen (a document for a hive, the answer to a change) waits until it is
written. Where it cannot be written she goes on from memory and says so; what a full disk refused is tried again.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rbee_runtime import logs
from rbee_runtime.errors import StateError
from rbee_runtime.queen.store import Store, is_unwritable

RETRY_SECONDS = 5.0

MOST_KEPT = 10_000
"""Writes that are kept for a disk that takes none: of a thousand hives those of some hours. Older ones go."""


@dataclass(frozen=True, slots=True)
class _Write:
    call: Callable[[], None]
    durable: bool


class Writes:
    """Until `run` begins and once it has ended, each write is carried out by whoever puts it.

    `problem` says why the last ones are not written, "" where they are.
    """

    def __init__(self, store: Store) -> None:
        self.problem = store.problem
        self._store = store
        self._waiting: deque[_Write] = deque()
        self._kept: list[_Write] = []
        self._turn = threading.Lock()
        self._apart = False
        self._put = self._tried = 0
        self._after: deque[tuple[int, Callable[[], None]]] = deque()
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()

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
                await self._wait()
                self._wake.clear()
                await asyncio.to_thread(self._carry_out)
                self._tell()
        finally:
            self._apart = False
            self._carry_out()
            self._tell()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(RETRY_SECONDS if self._kept else None):
                await self._wake.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()
        while self._after and self._after[0][0] <= self._tried:
            self._after.popleft()[1]()

    def _carry_out(self) -> None:
        """Write what waits; a thread and its owner may both come here while a queen leaves."""
        with self._turn:
            # More may be put meanwhile, by the thread that serves.
            new = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if new or self._kept:
                self._kept, problem = self._write([*self._kept, *new])
                self._note(problem)
            self._tried += len(new)

    def _write(self, batch: list[_Write]) -> tuple[list[_Write], str]:
        """Return what is to be tried again, and what went wrong."""
        try:
            with self._store.together(durable=any(each.durable for each in batch)):
                for each in batch:
                    each.call()
        except StateError as error:
            if is_unwritable(error):
                return batch[-MOST_KEPT:], str(error)
            if len(batch) == 1:
                return [], str(error)
        else:
            return [], ""
        # What is wrong with one of them is not to cost the others.
        found = [self._write([each]) for each in batch]
        return [each for kept, _ in found for each in kept], next((said for _, said in reversed(found) if said), "")

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            logs.error("state not saved", why=problem)
        self.problem = problem
