"""A server's process: start it, read its log, see it end and why, and end it with all that it started."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.worker.engines import attendant
from rbee_runtime.worker.engines.endings import Ending
from rbee_runtime.worker.engines.served.dialects import Start

_OURS = frozenset(
    {"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"}
)
_OUR_PREFIX = "RBEE_"
_LINE_BYTES = 1 << 20
"""Of a log; vLLM writes its whole configuration in one line."""

LOG_SECONDS = 1.0
"""For the last lines of a server that has ended."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""A hive has fetched what is needed: no server looks for more, tells anybody of itself, or writes beside its code."""


class Program:
    """One process. `heard` is called with each line of its log, `gone` once with why it ended unasked."""

    def __init__(self, heard: Callable[[str], None], gone: Callable[[EngineCrashedError], None]) -> None:
        self._heard = heard
        self._gone = gone
        self._asked = False
        self.ending = Ending()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, start: Start) -> None:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            *attendant.becoming(*start.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=variables(os.environ, start),
            limit=_LINE_BYTES,
            # A group of its own, which ends as a whole; and Ctrl-C at a terminal is for the front.
            start_new_session=True,
        )
        self._task = asyncio.create_task(self._follow(self._process))

    @property
    def pid(self) -> int:
        """Return its process id, 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    def kill(self) -> None:
        """End it and all that it started at once."""
        self._signal(signal.SIGKILL)

    async def close(self, seconds: float) -> None:
        """Ask it to end, and end it and all that it started if it has not within `seconds`."""
        self._asked = True
        if self._process is None or self._task is None:
            return
        if self._process.returncode is None:
            self._signal(signal.SIGTERM, group=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        self.kill()
        await self._process.wait()
        await asyncio.gather(self._task, return_exceptions=True)

    def _signal(self, number: signal.Signals, *, group: bool = True) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            raise AssertionError("a server was started without a pipe for its log")
        copying = asyncio.create_task(self.ending.copy(process.stdout, self._heard))
        status = await process.wait()
        # What it started must not serve on, nor keep the log open.
        self.kill()
        # One that left the group keeps the log open.
        await asyncio.wait({copying}, timeout=LOG_SECONDS)
        copying.cancel()
        if not self._asked:
            self._gone(self.ending.why(status))


def variables(ours: Mapping[str, str], start: Start) -> dict[str, str]:
    """Return a server's variables: those of the worker without its secrets and what its manager tells it alone."""
    kept = {
        name: value
        for name, value in ours.items()
        if name not in _OURS and not name.startswith(_OUR_PREFIX) and name != "PYTHONPATH"
    }
    return {**kept, **QUIET, **start.environment}
