"""What every connection inside a fleet has in common."""

import asyncio
import socket

import httpx
from starlette.responses import PlainTextResponse

from rbee_runtime.link import DEAD_SECONDS, Link, Role
from rbee_runtime.server import HttpServer, bind


async def test_a_connection_notices_a_dead_peer() -> None:
    """Sent data without an answer and silence both end it after 30 s, not after the limit for slow answers."""
    listener = bind("127.0.0.1", 0)
    server = HttpServer(PlainTextResponse("hello"), tls=None, drain_seconds=1)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_started()
    link = Link(Role.QUEEN, "f", token="t")
    async with link.client(timeout=httpx.Timeout(5)) as client:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with client.stream("GET", url) as answer:
            peer: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_SECONDS * 1000
            assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    server.should_exit = True
    await serving


def test_a_token_is_not_printed() -> None:
    """A link in a log or a traceback does not give its token away."""
    assert "hidden" not in repr(Link(Role.QUEEN, "f", token="hidden"))
