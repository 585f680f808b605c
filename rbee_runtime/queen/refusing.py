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
from rbee_runtime.errors import DamagedStateError, RequestError
from rbee_runtime.queen import policy
from rbee_runtime.queen.commands import Commands, cancel
from rbee_runtime.queen.control import Word
from rbee_runtime.queen.store import Store
from rbee_runtime.server import HttpServer

LOOK_SECONDS = 5.0
"""Between two looks whether the database is whole."""


class Refusal:
    """ASGI app with one answer; `why` is told by `/ready` alone, which the operator's tools read."""

    def __init__(self, why: str) -> None:
        self.why = why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request."""
        message = "this queen's database is damaged, and she serves nobody until it is restored; her log says more"
        error = RequestError(503, message, kind="server_error", code="state_damaged", retry_after=30)
        body = {"status": "damaged", "detail": self.why} if scope["path"] == policy.READY else error.body()
        await JSONResponse(body, 503, error.headers())(scope, receive, send)


async def until_usable(
    opened: Callable[[], Store],
    damage: DamagedStateError,
    listener: socket.socket,
    control: socket.socket,
    tls: ssl.SSLContext | None,
) -> Store | None:
    """Return the store once it can be opened, None if an order to end came before; raise whatever else it says."""
    logs.error("state damaged", why=str(damage))
    commands, app = Commands(control), Refusal(str(damage))
    # The server closes what it is given, and the queen needs her socket again.
    server = HttpServer(app, tls=tls, drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener.dup()]))
    order = asyncio.create_task(commands.next())
    try:
        await server.wait_started()
        commands.say(Word.REFUSING)
        while not order.done():
            await asyncio.wait({order}, timeout=LOOK_SECONDS)
            if order.done():
                break
            try:
                store = await asyncio.to_thread(opened)
            except DamagedStateError as error:
                app.why = str(error)
            else:
                logs.info("state usable again")
                return store
        return None
    finally:
        await cancel(order)
        server.should_exit = True
        await serving
