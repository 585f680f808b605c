"""The engine's process as the front has it: start it, talk with it, see it end and why."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.worker.engines import attendant
from rbee_runtime.worker.engines.endings import Ending
from rbee_runtime.worker.engines.llamacpp import wire

_MODULE = "rbee_runtime.worker.engines.llamacpp.program"


class Child:
    """One process. `heard` is called with each of its messages, `gone` once with why it ended unasked.

    `variables` are added to its environment.
    """

    def __init__(
        self,
        heard: Callable[[Any], None],
        gone: Callable[[EngineCrashedError], None],
        variables: Mapping[str, str],
    ) -> None:
        self._variables = variables
        self._heard = heard
        self._gone = gone
        self._ending = Ending(plain="llama.cpp: ")
        self._crash: EngineCrashedError | None = None
        self._asked = False
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
                    env={**attendant.environment(), **self._variables},
                    # Ctrl-C at a terminal is for the front, also while this one still imports.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise EngineCrashedError(f"the engine's process cannot be started: {error.strerror}") from error
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self.send(order)
        if self._process.stderr is None:
            raise AssertionError("the engine's process was started without a pipe for its log")
        hearing, copying = self._hear(self._process, reader, self._writer), self._ending.copy(self._process.stderr)
        self._tasks = {asyncio.create_task(hearing), asyncio.create_task(copying)}

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
            self._gone(self._crash or (EngineCrashedError(damage) if damage else self._ending.why(status)))
