"""Threads of one models folder: a network disk that hangs holds them, and nothing else of the process.

They are apart from asyncio's shared ones, so that workers and devices are watched on, and daemons, because whoever
waits for a disk that does not answer would keep the process from ending.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rbee_runtime.errors import ModelStoreError

T = TypeVar("T")

LINGER_SECONDS = 5.0
"""An idle thread stays so long: blocks of a download come every few milliseconds."""

WORK_THREADS = 10
"""Two downloads, each of which writes, hashes and looks for room, two models of this host, and readers of the API."""

HASH_THREADS = 2
"""Whole files are read for minutes; more at once only makes each slower."""


class Threads:
    """At most `most` threads, started when there is work for them."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._count = self._idle = 0
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()

    def submit(self, work: Callable[..., T], *given: object) -> Future[T]:
        """Have `work` done in a thread."""
        future: Future[T] = Future()
        with self._changed:
            self._waiting.append((future, lambda: work(*given)))
            if len(self._waiting) > self._idle and self._count < self._most:
                self._start()
            else:
                self._changed.notify()
        return future

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            # The process has all the threads that it may have; those that there are do it, if there are any.
            if not self._count:
                future, _ = self._waiting.pop()
                future.set_exception(
                    ModelStoreError(
                        f"no thread for {self._name}: {error}; raise TasksMax or end something on this host"
                    )
                )
            return
        self._count += 1

    async def run(self, work: Callable[..., T], *given: object) -> T:
        """Return what `work` returns; being cancelled does not end a thread that is at it."""
        return await asyncio.wrap_future(self.submit(work, *given))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._idle += 1
                    called = self._changed.wait(LINGER_SECONDS)
                    self._idle -= 1
                    if not called and not self._waiting:
                        self._count -= 1
                        return
                future, work = self._waiting.popleft()
            _do(future, work)
            del future, work


SOURCES = Threads(4, "model-source")
"""For what lists and reads sources by blocking calls: a folder on another disk, a cache, the hub's client."""


class StoreThreads:
    """What one models folder has: `looks` for one look at a time, `hashing` for whole files, `work` for the rest.

    `halted` ends what reads whole files between two blocks.
    """

    def __init__(self) -> None:
        self.looks = Threads(1, "model-look")
        self.hashing = Threads(HASH_THREADS, "model-hash")
        self.work = Threads(WORK_THREADS, "model-store")
        self.halted = threading.Event()


def _do(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
        future.set_exception(error)
