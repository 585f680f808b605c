"""Calls into C that nobody can stop, in a few threads beside the steps.

waiting  no thread has taken the call yet
running  one computes it
over     it has returned or raised
A call may be left at any time: nobody asks what comes of it any more. If it waits it is not begun then; if it runs, its
thread is taken until C returns.
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


class Call(Generic[Result]):
    """One call. Asked and left by one thread, run by another."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._after: Callable[[], None] | None = None
        self._clock: int | None = None
        self._begun = -1.0
        self._left_at = 0.0

    @property
    def waiting(self) -> bool:
        """Say whether no thread has taken it yet."""
        return self._begun < 0 and not self.over

    @property
    def over(self) -> bool:
        """Say whether it has returned or raised."""
        return self._over.is_set()

    @property
    def left(self) -> bool:
        """Say whether nobody asks what comes of it."""
        return self._after is not None

    @property
    def seconds(self) -> float:
        """Return the processor time that it has taken so far, or the time of day where no system tells that."""
        return _time(self._clock) - self._begun if self._begun >= 0 else 0.0

    @property
    def stuck(self) -> float:
        """Return for how many seconds it has been computed for nobody."""
        return time.monotonic() - self._left_at if self.left and not (self.waiting or self.over) else 0.0

    @property
    def result(self) -> Result:
        """Return what it returned or raise what it raised."""
        if self._error is not None:
            raise self._error
        return cast("Result", self._result)

    def wait(self, seconds: float) -> bool:
        """Say whether it is over, after so long at most."""
        return self._over.wait(seconds)

    def leave(self, after: Callable[[], None]) -> bool:
        """Have `after` called once it is over, in its thread; False, and nothing of that, if it is over already."""
        with self._lock:
            if self._over.is_set():
                return False
            self._left_at, self._after = time.monotonic(), after
            return True

    def run(self) -> None:
        """Compute it in this thread."""
        if not self.left:
            self._clock = _clock_of_this_thread()
            self._begun = _time(self._clock)
            try:
                self._result = self._function()
            except BaseException as error:  # noqa: BLE001 - it is raised where the call was given
                self._error = error
        with self._lock:
            self._over.set()
            after = self._after
        if after is not None:
            after()


class Aside:
    """Runs calls in up to so many threads, in the order in which one thread asks for them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._begun = 0
        self._queue: SimpleQueue[Call[Any]] = SimpleQueue()
        self._calls: list[Call[Any]] = []

    @property
    def stuck(self) -> list[float]:
        """Return for how many seconds each of its threads has computed for nobody, of those that do."""
        self._calls = [call for call in self._calls if not call.over]
        return [seconds for call in self._calls if (seconds := call.stuck)]

    def ask(self, function: Callable[[], Result]) -> Call[Result]:
        """Have a function called as soon as a thread is free."""
        call = Call(function)
        self._calls = [known for known in self._calls if not known.over]
        self._calls.append(call)
        if self._begun < min(self.threads, len(self._calls)):
            self._begun += 1
            threading.Thread(target=self._run, name="aside", daemon=True).start()
        self._queue.put(call)
        return call

    def _run(self) -> None:
        while True:
            self._queue.get().run()


def _clock_of_this_thread() -> int | None:
    return time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else None


def _time(clock: int | None) -> float:
    return time.monotonic() if clock is None else time.clock_gettime(clock)
