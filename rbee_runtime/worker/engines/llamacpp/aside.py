"""Calls into C that nobody can stop, in a thread that is left to itself when one of them takes too long.

ready    the thread waits for a call
running  it computes one, and whoever gave it waits
left     the call took too long: nobody waits, another thread takes the next one, and this one ends with its call
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

Result = TypeVar("Result")

LOOK_SECONDS = 0.1
"""So often is looked at how much processor time a call has taken."""


class _Call:
    """One call, what came of it, and whether somebody still waits for that."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was given
            self._error = error
        self.over.set()

    @property
    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class _Thread:
    """One thread and the calls it was given."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
        self._thread.start()

    def give(self, call: _Call) -> None:
        self._calls.put(call)

    def leave(self) -> None:
        """Have it end after the call that it runs."""
        self._calls.put(None)

    @property
    def seconds(self) -> float:
        """Return the processor time that it has taken so far, or the time of day where no system tells that."""
        if not hasattr(time, "pthread_getcpuclockid") or self._thread.ident is None:
            return time.monotonic()
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    @property
    def runs(self) -> bool:
        """Say whether it is still there."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()


class Aside:
    """Runs one call at a time, each for so many `seconds` of processor time at most. For one thread of callers."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread: _Thread | None = None
        self._left: list[_Thread] = []

    @property
    def stuck(self) -> int:
        """Return how many calls are still computed that nobody waits for."""
        self._left = [thread for thread in self._left if thread.runs]
        return len(self._left)

    def run(self, function: Callable[[], Result]) -> Result:
        """Return what it returns and raise what it raises; TimeoutError if it takes longer, and goes on by itself."""
        thread = self._thread = self._thread or _Thread()
        begun, call = thread.seconds, _Call(function)
        thread.give(call)
        while not call.over.wait(LOOK_SECONDS):
            if thread.seconds - begun > self._seconds and not call.over.is_set():
                thread.leave()
                self._left.append(thread)
                self._thread = None
                raise TimeoutError
        return cast("Result", call.result)
