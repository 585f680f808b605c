"""The engine's process as the front has it: start it, talk with it, see it end and why."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import starvation
from rbee_runtime.worker.engines.llamacpp import attendant, wire

_MODULE = "rbee_runtime.worker.engines.llamacpp.program"
_LAST_LINES = 20


class Child:
    """One process. `heard` is called with each of its messages, `gone` once with why it ended unasked."""

    def __init__(self, heard: Callable[[Any], None], gone: Callable[[EngineCrashedError], None]) -> None:
        self._heard = heard
        self._gone = gone
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._crash: EngineCrashedError | None = None
        self._asked = False
        self._kills = starvation.kills()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, order: wire.Load) -> None:
        """Start it and tell it what to load."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *attendant.command(_MODULE, str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=sys.stderr.fileno(),
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    env=attendant.environment(),
                    # Ctrl-C at a terminal is for the front, also while this one still imports.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise EngineCrashedError(f"the engine's process cannot be started: {error.strerror}") from error
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self.send(order)
        hearing = self._hear(self._process, reader, self._writer)
        self._tasks = {asyncio.create_task(hearing), asyncio.create_task(self._copy_log(self._process))}

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid if self._process is not None else 0

    def send(self, message: wire.ToEngine) -> None:
        """Send a message; what a dead process does not take is lost, its end is told by `gone`."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.frame(message))

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()

    async def close(self, seconds: float) -> None:
        """Ask it to end, and end it if it has not within `seconds`."""
        self._asked = True
        if self._process is None or self._writer is None:
            return
        self.send(wire.Quit())
        self._writer.close()
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _hear(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        damage = ""
        try:
            while True:
                head = await reader.readexactly(wire.HEAD)
                message = wire.for_front(await reader.readexactly(wire.length_of(head)))
                if isinstance(message, wire.Crashed):
                    self._crash = EngineCrashedError(message.message, reason=message.reason)
                self._heard(message)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - whatever it sent, it is beyond use
            damage = f"it sent what cannot be read: {error}"
            self.kill()
        status = await process.wait()
        writer.close()
        if not self._asked:
            self._gone(self._why(status, damage))

    async def _copy_log(self, process: asyncio.subprocess.Process) -> None:
        """Pass its stderr on and remember the last lines: they say what an abort in C was about."""
        if process.stderr is None:
            raise AssertionError("the engine's process was started without a pipe for its log")
        while line := await _line(process.stderr):
            self._lines.append(line)
            # Of what C writes by itself some is a client's own text, which must not pass for a line of ours.
            sys.stderr.write(line + "\n" if line.startswith("llama.cpp: ") else f"engine: {line}\n")

    def _why(self, status: int, damage: str) -> EngineCrashedError:
        if self._crash is not None or damage:
            return self._crash or EngineCrashedError(damage)
        if status >= 0:
            return EngineCrashedError(f"its process ended with status {status}{self._last_words()}")
        starved = status == -signal.SIGKILL and self._kills is not None and self._kills != starvation.kills()
        name = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
        by = "by the kernel, for want of memory" if starved else f"by {name}"
        reason = ExitReason.OUT_OF_MEMORY if starved else ""
        return EngineCrashedError(f"its process was ended {by}{self._last_words()}", reason=reason)

    def _last_words(self) -> str:
        telling = [line for line in self._lines if "assert" in line.lower() or "error" in line.lower()]
        words = telling[-1:] or list(self._lines)[-1:]
        return f": {words[0][:300]}" if words else ""


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
