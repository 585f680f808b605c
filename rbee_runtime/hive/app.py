"""The hive's API: the queen sends the desired document and reads facts; anybody may ask whether the hive is well."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from rbee_runtime.errors import LauncherError, RbeeError, RequestError, StaleDesiredError
from rbee_runtime.hive import desired
from rbee_runtime.hive.launchers import Launcher
from rbee_runtime.hive.supervisor import Supervisor
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import DeviceReport, Heartbeat
from rbee_runtime.server import RoleGate, RoutePolicy

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""A hundred workers are some 50 kB."""

MAX_LOG_LINES = 2000
POLICIES = (
    RoutePolicy("/health", None),
    RoutePolicy("/ready", None),
    RoutePolicy("/api/v1/", frozenset({Role.QUEEN})),
)


@dataclass(frozen=True)
class Facts:
    """Where the routes read from."""

    supervisor: Supervisor
    launcher: Launcher
    heartbeat: Callable[[], Awaitable[Heartbeat]]
    devices: Callable[[], Awaitable[Sequence[DeviceReport]]]
    digest: str


def build(facts: Facts, link: Link) -> RoleGate:
    """Return the ASGI app behind its gate."""
    views = _Views(facts)
    routes = [
        Route("/health", views.health),
        Route("/ready", views.ready),
        Route("/api/v1/desired", views.desired, methods=["PUT"]),
        Route("/api/v1/info", views.info),
        Route("/api/v1/devices", views.devices),
        Route("/api/v1/workers", views.workers),
        Route("/api/v1/models", views.models),
        Route("/api/v1/workers/{worker}/logs", views.logs),
    ]
    handlers = {RequestError: _refuse, RbeeError: _fail, HTTPException: _unknown}
    return RoleGate(Starlette(routes=routes, exception_handlers=handlers), link=link, policies=POLICIES)


class _Views:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "digest": self._facts.digest})

    async def ready(self, _: Request) -> Response:
        ready = self._facts.supervisor.reconciled.is_set()
        detail = "" if ready else "the workers on this host have not been looked at yet"
        return JSONResponse({"ready": ready, "detail": detail}, 200 if ready else 503)

    async def desired(self, request: Request) -> Response:
        document = desired.parse(await _body(request))
        try:
            return _json(await self._facts.supervisor.follow(document))
        except StaleDesiredError as error:
            raise RequestError(409, str(error), kind="conflict_error", code="stale_desired") from error

    async def info(self, _: Request) -> Response:
        return _json(await self._facts.heartbeat())

    async def devices(self, _: Request) -> Response:
        return _json(await self._facts.devices())

    async def workers(self, _: Request) -> Response:
        return _json((await self._facts.heartbeat()).workers)

    async def models(self, _: Request) -> Response:
        return _json((await self._facts.heartbeat()).models)

    async def logs(self, request: Request) -> Response:
        worker = desired.check_worker_id(request.path_params["worker"])
        return PlainTextResponse(await self._facts.launcher.logs(worker, _lines(request)))


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _lines(request: Request) -> int:
    text = request.query_params.get("lines", "100")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= MAX_LOG_LINES:
        raise RequestError(400, f"lines must be a whole number from 1 to {MAX_LOG_LINES}", param="lines")
    return int(text)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise RequestError(413, f"a desired document may have at most {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


async def _refuse(_: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, RequestError) else RequestError(500, str(error))
    return JSONResponse(refusal.body(), refusal.status, refusal.headers())


async def _fail(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, LauncherError) else 500
    return await _refuse(request, RequestError(status, str(error), kind="server_error"))


async def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return await _refuse(request, RequestError(status, "this hive has no such route or method", code="unknown_route"))
