"""The admin API: what the fleet is like, keys, usage, draining. policy.py says which scope a route needs."""

from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rbee_runtime.errors import RbeeError, RequestError
from rbee_runtime.queen import admin_keys, disk_routes, model_routes, views, watch_routes
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.figures import Figures
from rbee_runtime.queen.hive_calls import QUIET, HiveCalls
from rbee_runtime.queen.metrics import Meters
from rbee_runtime.queen.openapi import MAX_EVENT_ID, HiveName, WorkerId
from rbee_runtime.queen.rows import rows
from rbee_runtime.queen.usage import Usage
from rbee_runtime.queen.views import HiveAnswer, ModelAnswer, WorkerAnswer

MAX_LOG_LINES = 2000
"""As many as a hive gives."""


class DrainAnswer(BaseModel):
    """Answer to drain and undrain; `detail` says why a drain is not in force yet."""

    name: str
    drained: bool
    detail: str = ""


def build(controller: Controller, calls: HiveCalls, usage: Usage, meters: Meters | None = None) -> FastAPI:
    """Return the admin application; without `meters` nothing is known of requests."""
    # A redirect to the path with or without a slash at its end would go to whatever host a request names.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    _report_errors(app)
    _fleet_routes(app, controller)
    _host_routes(app, calls)
    disk_routes.register(app, controller, calls)
    model_routes.register(app, controller)
    admin_keys.add_routes(app, controller.keys, usage)
    meters = meters or Meters(controller, Figures(controller.fleet))
    watch_routes.register(app, controller.history.log, meters, calls)
    return app


def methods_of(app: FastAPI, path: str) -> frozenset[str]:
    """Return the methods that a path takes, or raise RequestError 404 if there is none."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path_regex.fullmatch(path)]
    if not routes:
        raise RequestError(404, f"there is no route {path[:100]}", code="unknown_route")
    # Names of models may hold a slash, so the path of a verb may be that of a name, too; the verb's comes first.
    mine = (route.methods or () for route in routes if route.path == routes[0].path)
    return frozenset(method for methods in mine for method in methods)


def _fleet_routes(app: FastAPI, controller: Controller) -> None:
    @app.get("/api/v1/hives", response_model=list[HiveAnswer])
    async def hives() -> Response:
        """List the hives, declared or heard."""
        return rows(views.hives(controller))

    @app.get("/api/v1/workers", response_model=list[WorkerAnswer])
    async def workers() -> Response:
        """List the workers, models of external servers included."""
        return rows(views.workers(controller))

    @app.get("/api/v1/models", response_model=list[ModelAnswer])
    async def models() -> Response:
        """List the declared models."""
        return rows(views.models(controller))

    @app.post("/api/v1/hives/{name}/drain")
    async def drain(name: HiveName) -> DrainAnswer:
        """Empty a hive and place nothing there."""
        controller.set_drained(name, drained=True)
        return DrainAnswer(name=name, drained=True, detail=controller.unheard_drain(name))

    @app.post("/api/v1/hives/{name}/undrain")
    async def undrain(name: HiveName) -> DrainAnswer:
        """Let a hive have workers again."""
        controller.set_drained(name, drained=False)
        return DrainAnswer(name=name, drained=False)


def _host_routes(app: FastAPI, calls: HiveCalls) -> None:
    """Register what one host itself answers; its own API says the form (`/api/v1/openapi.json` there)."""

    @app.get("/api/v1/hives/{name}/devices")
    async def devices(name: HiveName) -> Response:
        """Return the devices of a hive, as it says itself."""
        return await calls.get(name, "devices")

    @app.get("/api/v1/hives/{name}/models")
    async def models(name: HiveName) -> Response:
        """Return what a hive has on its disk or fetches."""
        return await calls.get(name, "models")

    @app.get("/api/v1/hives/{name}/events")
    async def events(
        name: HiveName,
        accept: Annotated[str, Header(include_in_schema=False)] = "",
        last_event_id: Annotated[str, Header(max_length=MAX_EVENT_ID)] = "",
    ) -> Response:
        """Return what happened on a hive as a list, or as a stream that goes on."""
        if "application/json" in accept:
            return await calls.get(name, "events")
        headers = {"accept": "text/event-stream", **({"last-event-id": last_event_id} if last_event_id else {})}
        return await calls.stream(name, "events", headers=headers)

    @app.get("/api/v1/workers/{worker}")
    async def worker(worker: WorkerId) -> Response:
        """Return all that its hive knows of a worker."""
        return await calls.get(calls.hive_of(worker), f"workers/{quote(worker, safe='')}")

    @app.get("/api/v1/workers/{worker}/logs")
    async def logs(
        worker: WorkerId,
        lines: Annotated[int, Query(ge=1, le=MAX_LOG_LINES)] = 100,
        follow: Annotated[int, Query(ge=0, le=1)] = 0,
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Response:
        """Return what a worker wrote, and with `follow` what it writes from now on."""
        hive, path = calls.hive_of(worker), f"workers/{quote(worker, safe='')}/logs"
        if not follow:
            return await calls.get(hive, path, {"lines": lines})
        form = "text/event-stream" if "text/event-stream" in accept else "text/plain"
        query: dict[str, str | int] = {"lines": lines, "follow": 1}
        return await calls.stream(hive, path, query, headers={"accept": form}, patience=QUIET)


def _report_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(RbeeError)
    async def failed(_: Request, error: RbeeError) -> JSONResponse:
        answer = RequestError(503, str(error), kind="server_error", retry_after=5)
        return JSONResponse(answer.body(), answer.status, answer.headers())

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        answer = RequestError(400, f"{field or 'body'}: {first['msg']}", param=field or None)
        return JSONResponse(answer.body(), answer.status, answer.headers())

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        path = request.scope["path"]
        answer = RequestError(error.status_code, f"{str(error.detail).lower()}: {request.method} {path[:100]}")
        headers = answer.headers()
        if error.status_code == 405:
            # Starlette names the methods of the first route of that path alone.
            headers["allow"] = ", ".join(sorted(methods_of(app, path)))
        return JSONResponse(answer.body(), answer.status, headers)
