"""The link listener: heartbeats of hives, each only under the name in its certificate."""

import re
from urllib.parse import urlsplit

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee_runtime import protocol
from rbee_runtime.config import HOST_NAME
from rbee_runtime.errors import RequestError
from rbee_runtime.http_connection import PEER
from rbee_runtime.link import Identity, Link, Role
from rbee_runtime.protocol import Heartbeat, decode
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.status import Status
from rbee_runtime.server import RoleGate, RoutePolicy

_PREFIX, _SUFFIX = "/api/v1/hives/", "/heartbeat"
_HOST = re.compile(r"[0-9A-Za-z.:-]{1,253}")
_NAME = re.compile(HOST_NAME)
_MAX_BYTES = 4 * 1024 * 1024
"""A hive with a hundred workers and models reports some tens of KiB."""

ROUTES = (
    RoutePolicy("/health", None, frozenset({"GET"})),
    RoutePolicy(f"{_PREFIX}{{name}}{_SUFFIX}", frozenset({Role.HIVE}), frozenset({"POST"})),
)
"""All that this listener answers; what is not here is 404 for hives and 403 for everybody else."""

POLICIES = (*ROUTES, RoutePolicy(_PREFIX, frozenset({Role.HIVE})))


def build(controller: Controller, link: Link, status: Status) -> RoleGate:
    """Return the application of the link listener."""
    return RoleGate(LinkApp(controller, status, scheme=link.scheme), link=link, policies=POLICIES)


class LinkApp:
    """Takes heartbeats."""

    def __init__(self, controller: Controller, status: Status, *, scheme: str) -> None:
        self._controller = controller
        self._status = status
        self._scheme = scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(Request(scope, receive))
        except RequestError as error:
            answer = _json(error.status, error.body())
        except ClientDisconnect:
            return
        if self._status.draining:
            # The next connection is the next queen's.
            answer.headers["connection"] = "close"
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if not any(route.covers(path, request.method) for route in ROUTES):
            raise RequestError(404, f"there is no route {request.method} {path[:100]} on the link listener")
        if path == "/health":
            return _json(200, self._status.health())
        name = path.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if self._status.draining:
            raise RequestError(503, "this queen is leaving; the next one answers", kind="server_error", retry_after=1)
        heartbeat = await _read(request)
        _check_names(name, heartbeat, request.scope.get(PEER))
        _check_addresses(heartbeat, self._scheme)
        return Response(protocol.encode(self._controller.heartbeat(heartbeat)), media_type="application/json")


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def _read(request: Request) -> Heartbeat:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MAX_BYTES:
            raise RequestError(413, f"a heartbeat has at most {_MAX_BYTES} bytes")
    try:
        return decode(data, Heartbeat)
    except msgspec.DecodeError as error:
        raise RequestError(400, f"this is not a heartbeat: {error}") from None


def _check_names(name: str, heartbeat: Heartbeat, peer: Identity | None) -> None:
    if not _NAME.fullmatch(name):
        raise RequestError(400, f"{name[:64]!r} is no name of a hive: use letters, digits, '.' and '-', at most 63")
    if heartbeat.hive != name:
        raise RequestError(400, f"the heartbeat of {heartbeat.hive[:64]!r} came under the name {name[:64]!r}")
    if peer is not None and peer.name != name:
        message = f"the certificate of {peer.name!r} may not speak for hive {name[:64]!r}"
        raise RequestError(403, message, kind="permission_error")


def _check_addresses(heartbeat: Heartbeat, scheme: str) -> None:
    """Refuse addresses that would send the queen anywhere but to a server of the link's own kind."""
    try:
        parts = urlsplit(heartbeat.url)
        plain = f"{parts.scheme}://{parts.netloc}" == heartbeat.url and "@" not in parts.netloc
        good = plain and parts.scheme == scheme and bool(_HOST.fullmatch(parts.hostname or "")) and bool(parts.port)
    except ValueError:
        good = False
    if not good:
        raise RequestError(400, f"the hive's url {heartbeat.url[:100]!r} is not of the form {scheme}://ADDRESS:PORT")
    for worker in heartbeat.workers:
        if (worker.address and not _HOST.fullmatch(worker.address)) or not 0 <= worker.port <= 65535:
            where = f"{worker.address[:100]!r} port {worker.port}"
            raise RequestError(400, f"the address of worker {worker.id[:64]!r} cannot be used: {where}")
