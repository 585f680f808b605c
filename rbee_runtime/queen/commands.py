"""What the supervisor orders, as the serving child hears it."""

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from rbee_runtime import logs
from rbee_runtime.queen.control import LineReader, Order, Word

CANCEL_SECONDS = 5.0
"""A part that has not ended by then did not hear that it should, and is told again."""


class Commands:
    """The supervisor's end of the control channel."""

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control = control
        self._reader = LineReader()
        self._order: asyncio.Task[Order] | None = None
        self._asked = asyncio.Event()
        # systemd's KillMode=process never signals us; a person who does means: leave.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._asked.set)

    @property
    def order(self) -> "asyncio.Task[Order]":
        """Return what waits for the one order that there is, whoever asks for it and when."""
        if self._order is None:
            self._order = asyncio.create_task(self._next())
        return self._order

    async def _next(self) -> Order:
        """Return the supervisor's order; its end, by whatever cause, is an order to drain."""
        reading = asyncio.create_task(self._read())
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({reading, asked}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else Order.DRAIN
        finally:
            await cancel(reading)
            await cancel(asked)

    async def _read(self) -> Order:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._control, 4096)
            except OSError:
                data = b""
            if not data:
                logs.warning("supervisor gone", pid=os.getppid())
                return Order.DRAIN
            for line in self._reader.feed(data):
                return Order(line)

    def say(self, word: Word) -> None:
        """Tell the supervisor, if it is still there."""
        with contextlib.suppress(OSError):
            self._control.send(f"{word}\n".encode())


async def cancel(task: asyncio.Task[Any]) -> None:
    """End a task for certain."""
    while not task.done():
        # A task that gets what it waits for in the very moment of a cancel may go on (asyncio.wait_for before 3.12).
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
