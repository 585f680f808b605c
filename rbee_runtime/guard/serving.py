"""The guard as a server: connections in, each in a task of its own, until somebody ends it."""

import asyncio
import contextlib
import socket
import sys
from typing import Any

from rbee_runtime import logs
from rbee_runtime.errors import GuardError
from rbee_runtime.guard.calls import ReadLog
from rbee_runtime.guard.framing import Connection, HungUpError
from rbee_runtime.guard.guard import Guard
from rbee_runtime.guard.table import read

MOST_CONNECTIONS = 512
"""A stop lasts as long as a worker drains, so that a host's workers may all have one at a time."""

SWEEP_SECONDS = 600.0
SWEEP_AGAIN_SECONDS = 5.0
"""While the engine is away."""

END_SECONDS = 3.0
"""What is being made or removed is finished; the engine goes on with what takes longer."""


class Serving:
    """Serves one hive on a listening socket."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._logs: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Begin to serve."""
        # Newer Pythons would remove the socket's file at the end, which is systemd's.
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, **options)
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Accept no more, cut those who follow a log, and let the rest finish for a moment."""
        if self._server is not None:
            self._server.close()
        for task in (self._sweeping, *self._logs):
            if task is not None:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_SECONDS)
        for left in self._tasks:
            left.cancel()
        await asyncio.gather(*self._tasks, *([self._sweeping] if self._sweeping else []), return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(Connection(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            await self._answer(connection)
        except HungUpError:
            pass
        except GuardError as error:
            with contextlib.suppress(HungUpError):
                await connection.refuse(error)
        except Exception as error:  # noqa: BLE001 - one call that surprises us must not end the guard
            logs.error("guard_failed", detail=repr(error))
            with contextlib.suppress(HungUpError):
                await connection.refuse(GuardError("the guard failed: see `journalctl -u rbee-guard`", status=500))
        finally:
            await connection.close()

    async def _answer(self, connection: Connection) -> None:
        request = await connection.receive()
        if len(self._tasks) > MOST_CONNECTIONS:
            raise GuardError(f"more than {MOST_CONNECTIONS} calls at once: try again later", status=503)
        try:
            call = read(request, self._guard.context)
            if isinstance(call, ReadLog):
                await self._relay_log(connection, call)
            else:
                # A caller that hangs up, as one does that asks for a stop, changes nothing about what it asked for.
                await connection.send(await self._guard.answer(call))
        except GuardError as error:
            if error.status in {400, 403, 500}:
                called = f"{request.method} {request.target[:200]}"
                logs.warning("guard_refused", call=called, status=error.status, detail=error)
            raise

    async def _relay_log(self, connection: Connection, call: ReadLog) -> None:
        relay = asyncio.create_task(self._send_log(connection, call))
        gone = asyncio.create_task(connection.hung_up())
        self._logs.add(relay)
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._logs.discard(relay)
            for task in (relay, gone):
                task.cancel()
            await asyncio.wait({relay, gone})
        if not relay.cancelled():
            relay.result()

    async def _send_log(self, connection: Connection, call: ReadLog) -> None:
        async with self._guard.log(call) as opened:
            await connection.send_open(opened)

    async def _sweep(self) -> None:
        """Remove now and then what workers without a container were handed."""
        while True:
            try:
                await self._guard.sweep()
                pause = SWEEP_SECONDS
            except (GuardError, OSError):
                pause = SWEEP_AGAIN_SECONDS
            await asyncio.sleep(pause)
