"""What the demo says, each line with the time since it began."""

import time
from collections.abc import Callable


class Story:
    """Prints lines with elapsed seconds; `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()

    def tell(self, line: str) -> None:
        """Print one line."""
        print(f"[{self._clock() - self._start:6.1f} s] {line}", flush=True)

    def show(self, text: str) -> None:
        """Print text as it is, set apart from the lines."""
        print(f"\n{text.rstrip()}\n", flush=True)


class DemoError(Exception):
    """The demo cannot go on; its text is one sentence with the fix."""
