"""The hive's API as an application: the table's routes behind the gate, every refusal in one shape."""

from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rbee_runtime.errors import LauncherError, NoLogError, RbeeError, RequestError, StaleDesiredError, StateError
from rbee_runtime.hive.facts import Facts
from rbee_runtime.hive.routes import POLICIES, ROUTES, ApiRoute
from rbee_runtime.link import Link
from rbee_runtime.protocol import QUEEN
from rbee_runtime.server import RoleGate

RETRY_SECONDS = 5
"""Launchers and disks are looked at again within some seconds."""


def build(facts: Facts, link: Link) -> RoleGate:
    """Return the ASGI app behind its gate."""
    routes = [Route(each.path, partial(_obeyed, facts, each), methods=[each.method]) for each in ROUTES]
    handlers = {RequestError: _refuse, RbeeError: _fail, HTTPException: _unknown}
    return RoleGate(Starlette(routes=routes, exception_handlers=handlers), link=link, policies=POLICIES)


async def _obeyed(facts: Facts, route: ApiRoute, request: Request) -> Response:
    """Answer, an order only if it comes from this hive's queen; one who does not say who she is is older."""
    queen = request.headers.get(QUEEN)
    if route.method != "GET" and queen is not None:
        await facts.obedience.check(queen)
    return await route.handler(facts, request)


async def _refuse(_: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, RequestError) else RequestError(500, str(error))
    return JSONResponse(refusal.body(), refusal.status, refusal.headers())


async def _fail(request: Request, error: Exception) -> Response:
    if isinstance(error, StaleDesiredError):
        return await _refuse(request, RequestError(409, str(error), kind="conflict_error", code="stale_desired"))
    if isinstance(error, NoLogError):
        return await _refuse(request, RequestError(404, str(error), code="no_log"))
    if isinstance(error, LauncherError | StateError):
        # A launcher that does not answer or a disk that takes nothing: both may be well again in a moment.
        later = RequestError(503, str(error), kind="server_error", code="unavailable", retry_after=RETRY_SECONDS)
        return await _refuse(request, later)
    return await _refuse(request, RequestError(500, str(error), kind="server_error"))


async def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return await _refuse(request, RequestError(status, "this hive has no such route or method", code="unknown_route"))
