"""The admin API: what the fleet is like, keys, usage, draining. policy.py says which scope a route needs."""

from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rbee_runtime import __version__
from rbee_runtime.errors import RbeeError, RequestError
from rbee_runtime.queen import admin_keys, model_routes, views
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.hive_calls import QUIET, HiveCalls
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


def build(controller: Controller, calls: HiveCalls, usage: Usage) -> FastAPI:
    """Return the admin application."""
    app = FastAPI(title="rbee queen", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    _report_errors(app)
    _fleet_routes(app, controller)
    _host_routes(app, calls)
    model_routes.register(app, controller)
    admin_keys.add_routes(app, controller.keys, usage)
    return app


def _fleet_routes(app: FastAPI, controller: Controller) -> None:
    @app.get("/api/v1/hives", response_model=list[HiveAnswer])
    async def hives() -> Response:
        return rows(views.hives(controller))

    @app.get("/api/v1/workers", response_model=list[WorkerAnswer])
    async def workers() -> Response:
        return rows(views.workers(controller))

    @app.get("/api/v1/models", response_model=list[ModelAnswer])
    async def models() -> Response:
        return rows(views.models(controller))

    @app.post("/api/v1/hives/{name}/drain")
    async def drain(name: str) -> DrainAnswer:
        controller.set_drained(name, drained=True)
        return DrainAnswer(name=name, drained=True, detail=controller.unheard_drain(name))

    @app.post("/api/v1/hives/{name}/undrain")
    async def undrain(name: str) -> DrainAnswer:
        controller.set_drained(name, drained=False)
        return DrainAnswer(name=name, drained=False)


def _host_routes(app: FastAPI, calls: HiveCalls) -> None:
    """Register what one host itself answers; its own API says the form (`/api/v1/openapi.json` there)."""

    @app.get("/api/v1/hives/{name}/devices")
    async def devices(name: str) -> Response:
        return await calls.get(name, "devices")

    @app.get("/api/v1/hives/{name}/models")
    async def models(name: str) -> Response:
        return await calls.get(name, "models")

    @app.get("/api/v1/hives/{name}/events")
    async def events(
        name: str, accept: Annotated[str, Header()] = "", last_event_id: Annotated[str, Header(max_length=100)] = ""
    ) -> Response:
        if "application/json" in accept:
            return await calls.get(name, "events")
        headers = {"accept": "text/event-stream", **({"last-event-id": last_event_id} if last_event_id else {})}
        return await calls.stream(name, "events", headers=headers)

    @app.get("/api/v1/workers/{worker}")
    async def worker(worker: str) -> Response:
        return await calls.get(calls.hive_of(worker), f"workers/{quote(worker, safe='')}")

    @app.get("/api/v1/workers/{worker}/logs")
    async def logs(
        worker: str,
        lines: Annotated[int, Query(ge=1, le=MAX_LOG_LINES)] = 100,
        follow: Annotated[int, Query(ge=0, le=1)] = 0,
        accept: Annotated[str, Header()] = "",
    ) -> Response:
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
        answer = RequestError(error.status_code, f"{str(error.detail).lower()}: {request.method} {request.url.path}")
        return JSONResponse(answer.body(), answer.status, {**answer.headers(), **(error.headers or {})})
