"""A queen whose database is damaged refuses every request with a sentence until somebody has put that right.

One that only ended would be started again every second, and her clients would wait at a socket that nobody answers.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from rbee_runtime import logs
from rbee_runtime.errors import DamagedStateError, RequestError, StateError
from rbee_runtime.queen import policy
from rbee_runtime.queen.commands import Commands, cancel
from rbee_runtime.queen.control import Word
from rbee_runtime.queen.store import Store
from rbee_runtime.server import HttpServer

LOOK_SECONDS = 5.0
"""Between two looks whether the database is whole."""


class Refusal:
    """ASGI app with one answer; `why` is told by `/ready` alone, which the operator's tools read."""

    def __init__(self, damage: DamagedStateError) -> None:
        self._why = ""
        self.told(damage)

    def told(self, damage: DamagedStateError) -> None:
        """Note what is damaged, and log it if that is something new."""
        if str(damage) != self._why:
            self._why = str(damage)
            logs.error("state damaged", why=self._why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request."""
        message = "this queen's database is damaged, and she serves nobody until it is restored; her log says more"
        error = RequestError(503, message, kind="server_error", code="state_damaged", retry_after=30)
        body = {"status": "damaged", "detail": self._why} if scope["path"] == policy.READY else error.body()
        # Nobody is to go on with this app once there is a queen again.
        headers = {**error.headers(), "connection": "close"}
        await JSONResponse(body, 503, headers)(scope, receive, send)


async def until_usable(
    opened: Callable[[], Store],
    damage: DamagedStateError,
    listener: socket.socket,
    commands: Commands,
    tls: ssl.SSLContext | None,
) -> Store | None:
    """Return the store once it can be opened, None if an order to end came before; raise whatever else it says."""
    app = Refusal(damage)
    # The server closes what it is given, and the queen needs her socket again.
    server = HttpServer(app, tls=tls, drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener.dup()]))
    started = asyncio.create_task(server.wait_started())
    try:
        await asyncio.wait({started, serving, commands.order}, return_when=asyncio.FIRST_COMPLETED)
        commands.say(Word.REFUSING)
        while True:
            await asyncio.wait({serving, commands.order}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if commands.order.done() or serving.done():
                return None
            store = await _look(opened, app, commands)
            if store is not None:
                logs.info("state usable again")
                return store
    finally:
        await cancel(started)
        server.should_exit = True
        await serving


async def _look(opened: Callable[[], Store], app: Refusal, commands: Commands) -> Store | None:
    """Return the store, None where it is damaged still or an order to end came meanwhile."""
    try:
        store = await asyncio.to_thread(opened)
    except StateError as error:
        if isinstance(error, DamagedStateError):
            app.told(error)
        elif not commands.order.done():
            raise
        return None
    if commands.order.done():
        store.close()
        return None
    return store
