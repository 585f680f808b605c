"""The engine's process as the front has it: start it, talk with it, see it end and why."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

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
        self._line: _Line | None = None
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
        line = _Line(self._take)
        await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
        self._line = line
        self.send(order)
        if self._process.stderr is None:
            raise AssertionError("the engine's process was started without a pipe for its log")
        hearing, copying = self._hear(self._process, line), self._ending.copy(self._process.stderr)
        self._tasks = {asyncio.create_task(hearing), asyncio.create_task(copying)}

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid if self._process is not None else 0

    def send(self, message: wire.ToEngine) -> None:
        """Send a message; what a dead process does not take is lost, its end is told by `gone`."""
        if self._line is not None:
            self._line.send(wire.frame(message))

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()

    async def close(self, seconds: float) -> None:
        """Ask it to end, and end it if it has not within `seconds`."""
        self._asked = True
        if self._process is None or self._line is None:
            return
        self.send(wire.Quit())
        self._line.close()
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, payload: bytes) -> None:
        message = wire.for_front(payload)
        if isinstance(message, wire.Crashed):
            self._crash = EngineCrashedError(message.message, reason=message.reason)
        self._heard(message)

    async def _hear(self, process: asyncio.subprocess.Process, line: "_Line") -> None:
        await line.ended.wait()
        if line.damage:
            self.kill()
        status = await process.wait()
        if not self._asked:
            damaged = EngineCrashedError(line.damage) if line.damage else None
            self._gone(self._crash or damaged or self._ending.why(status))


class _Line(asyncio.Protocol):
    """The socket to the process. `take` gets each message in the moment it comes: a token is worth no detour."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.ended = asyncio.Event()
        self.damage = ""
        self._take = take
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where to send."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take the messages that are whole by now."""
        self._unread += data
        try:
            while (payload := wire.taken(self._unread)) is not None:
                self._take(payload)
        except Exception as error:  # noqa: BLE001 - whatever it sent, it is beyond use
            self.damage = self.damage or f"it sent what cannot be read: {error}"
            self._unread.clear()
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        """Note that the process is gone, or that it is told to go."""
        self.ended.set()

    def send(self, frame: bytes) -> None:
        """Send a whole message, unless nobody hears it any more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        """Send what waits, and end."""
        if self._transport is not None:
            self._transport.close()
