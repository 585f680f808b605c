"""The log of an engine's process and why such a process ended."""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Callable

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import starvation

_LAST_LINES = 20
_LONGEST = 300


class Ending:
    """Watches one process from its birth: what it writes, and whether the kernel kills for want of memory meanwhile.

    Lines that begin with `plain` are passed on as they are, all others marked: of what an engine writes by itself some
    is a client's own text, which must not pass for a line of ours.
    """

    def __init__(self, plain: str = "") -> None:
        self._plain = plain
        self._kills = starvation.kills()
        self.lines: deque[str] = deque(maxlen=_LAST_LINES)

    async def copy(self, stream: asyncio.StreamReader, heard: Callable[[str], None] | None = None) -> None:
        """Pass a log on to its end and remember the last lines: they say what an abort was about."""
        while line := await _line(stream):
            self.lines.append(line)
            if heard is not None:
                heard(line)
            shown = bool(self._plain) and line.startswith(self._plain)
            sys.stderr.write(line + "\n" if shown else f"engine: {line}\n")

    def why(self, status: int) -> EngineCrashedError:
        """Return why it ended with this status (negative: by a signal)."""
        if status >= 0:
            return EngineCrashedError(f"its process ended with status {status}{self.last_words()}")
        starved = status == -signal.SIGKILL and self._kills is not None and self._kills != starvation.kills()
        name = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
        by = "by the kernel, for want of memory" if starved else f"by {name}"
        reason = ExitReason.OUT_OF_MEMORY if starved else ExitReason.CRASHED
        return EngineCrashedError(f"its process was ended {by}{self.last_words()}", reason=reason)

    def last_words(self) -> str:
        """Return the line that tells most, after a colon, or ""."""
        telling = [line for line in self.lines if "assert" in line.lower() or "error" in line.lower()]
        words = telling[-1:] or list(self.lines)[-1:]
        return f": {words[0][:_LONGEST]}" if words else ""


async def _line(stream: asyncio.StreamReader) -> str:
    """Return the next line that is not empty, "" at the end; what is longer than the buffer is cut."""
    while True:
        try:
            raw = await stream.readline()
        except ValueError:  # asyncio: longer than its buffer, which it has dropped
            return "(a line that was too long)"
        if not raw:
            return ""
        if text := raw.decode("utf-8", "replace").rstrip():
            return text
