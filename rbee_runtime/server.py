"""HTTP server of queen, hive and worker: uvicorn on given sockets, with the caller's identity in the ASGI scope.

Who may call what is one table per process (`RoutePolicy`); a route that no row covers is refused, so that forgetting
a row fails closed.
"""

import asyncio
import contextlib
import errno
import functools
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any, cast

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rbee_runtime.errors import ConfigError, RequestError
from rbee_runtime.http_connection import HEAD_SECONDS, PEER, Connection
from rbee_runtime.link import Link, Role

KEEP_ALIVE_SECONDS = 75
"""Longer than the pools that call us (60 s), so that the caller is the one that closes an idle connection."""


@dataclass(frozen=True)
class RoutePolicy:
    """Roles that may call a route; None: anybody.

    `path` is exact, the start of longer ones if it ends in '/', or a template: `{id}` stands for one segment,
    `{name:path}` for any number. `methods` empty means all; HEAD counts as GET.
    """

    path: str
    roles: frozenset[Role] | None
    methods: frozenset[str] = frozenset()

    def covers(self, path: str, method: str = "GET") -> bool:
        """Say whether this row is about a call of `path`."""
        if self.methods and ("GET" if method == "HEAD" else method) not in self.methods:
            return False
        if "{" in self.path:
            return bool(_pattern(self.path).fullmatch(path))
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[a-z]+(?::path)?\})", template)
    kinds = {True: ".+", False: "[^/]+"}
    return re.compile("".join(kinds[":path" in p] if p.startswith("{") else re.escape(p) for p in parts), re.DOTALL)


class RoleGate:
    """ASGI middleware that lets a request through if the policy table names the caller's role."""

    def __init__(self, app: ASGIApp, *, link: Link, policies: Sequence[RoutePolicy]) -> None:
        self._app = app
        self._link = link
        self._policies = tuple(policies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or pass the request on."""
        if scope["type"] == "http" and not self._allowed(scope):
            refusal = RequestError(
                403,
                "there is no such route for the role of your certificate or token (header x-rbee-token)",
                kind="permission_error",
            )
            await JSONResponse(refusal.body(), 403, refusal.headers())(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        policy = next((row for row in self._policies if row.covers(scope["path"], scope["method"])), None)
        if policy is None:
            return False
        if policy.roles is None:
            return True
        headers: dict[bytes, bytes] = dict(scope["headers"])
        token = headers.get(b"x-rbee-token", b"").decode("latin-1")
        return self._link.accepts(scope.get(PEER), token, policy.roles)


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its process; `should_exit = True` drains and ends it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tls: ssl.SSLContext | None,
        drain_seconds: float | None = None,
        connection: Callable[..., Connection] = Connection,
    ) -> None:
        factory = (lambda *_: tls) if tls is not None else None
        self._accepting = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[Connection]", connection),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=None if drain_seconds is None else round(drain_seconds),
                ssl_context_factory=factory,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handling to the process that owns this server."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start to listen and let `wait_started` return."""
        _bound_handshakes(asyncio.get_running_loop())
        await super().startup(sockets=sockets)
        self._accepting.set()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop to listen, finish the requests in progress, and end."""
        self._drop_idle_tls()
        await super().shutdown(sockets=sockets)

    async def wait_started(self) -> None:
        """Return once connections are accepted."""
        await self._accepting.wait()

    def _drop_idle_tls(self) -> None:
        # An orderly TLS close waits for the peer's, and a peer that pools connections looks only when it needs one.
        for connection in cast("list[Connection]", list(self.server_state.connections)):
            transport = connection.transport
            if not connection.busy and transport.get_extra_info("ssl_object") and not transport.get_write_buffer_size():
                transport.abort()


def _bound_handshakes(loop: Any) -> None:
    """Have the listeners of a loop give a client as long for its TLS handshake as for a head, not the usual minute.

    uvicorn does not pass that on, and no connection of ours begins before the handshake is over.
    """
    if "create_server" in vars(loop):
        return
    real = loop.create_server

    def create_server(*arguments: Any, **named: Any) -> Any:
        bound = {"ssl_handshake_timeout": HEAD_SECONDS} if named.get("ssl") is not None else {}
        return real(*arguments, **bound, **named)

    loop.create_server = create_server


def _way_out(error: OSError, port: int) -> str:
    """Return what to do about a port that cannot be had."""
    another = "choose another port (in the inventory; or by --port, which takes the next one too)"
    if error.errno == errno.EADDRINUSE:
        return f"stop what uses it (`ss -ltnp 'sport = :{port}'`; Consul uses 8500 and 8600 by default) or {another}"
    if error.errno == errno.EACCES:
        return f"ports this low are root's: {another}"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; correct it"
    return another


def bind(address: str, port: int) -> socket:
    """Return a bound TCP socket (port 0: any free one) or raise ConfigError saying who else uses such a port."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"cannot listen on {address}:{port}: a port is a number up to 65535")
    listener = socket(AF_INET6 if ":" in address else AF_INET, SOCK_STREAM)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {address}:{port}: {error.strerror}; {_way_out(error, port)}") from error
    listener.setblocking(False)
    return listener
