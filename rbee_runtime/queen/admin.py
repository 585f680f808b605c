"""The admin API: what the fleet is like, keys, draining. Every route needs a key with scope admin (see policy.py)."""

from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rbee_runtime import __version__
from rbee_runtime.errors import RbeeError, RequestError
from rbee_runtime.models.references import check_name
from rbee_runtime.queen import model_routes, views
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.hive_calls import QUIET, HiveCalls
from rbee_runtime.queen.records import KeyRecord, Scope
from rbee_runtime.queen.views import HiveAnswer, KeyAnswer, ModelAnswer, WorkerAnswer

MAX_LOG_LINES = 2000
"""As many as a hive gives."""


class NewKey(BaseModel):
    """Body of `POST /api/v1/keys`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    scopes: list[Scope] = Field(default=[Scope.INFER], min_length=1)
    models: list[str] = Field(default=["*"], min_length=1, max_length=100)


class KeyCreated(KeyAnswer):
    """Answer to a new key: the only time that the key itself is shown."""

    key: str


class DrainAnswer(BaseModel):
    """Answer to drain and undrain; `detail` says why a drain is not in force yet."""

    name: str
    drained: bool
    detail: str = ""


def build(controller: Controller, calls: HiveCalls) -> FastAPI:
    """Return the admin application."""
    app = FastAPI(title="rbee queen", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    _report_errors(app)
    _fleet_routes(app, controller)
    _host_routes(app, calls)
    model_routes.register(app, controller)
    _key_routes(app, controller)
    return app


def _fleet_routes(app: FastAPI, controller: Controller) -> None:
    @app.get("/api/v1/hives")
    async def hives() -> list[HiveAnswer]:
        return views.hives(controller)

    @app.get("/api/v1/workers")
    async def workers() -> list[WorkerAnswer]:
        return views.workers(controller)

    @app.get("/api/v1/models")
    async def models() -> list[ModelAnswer]:
        return views.models(controller)

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


def _key_routes(app: FastAPI, controller: Controller) -> None:
    @app.get("/api/v1/keys")
    async def keys() -> list[KeyAnswer]:
        return [_key_answer(record) for record in controller.keys.active()]

    @app.post("/api/v1/keys", status_code=201)
    async def create(new: NewKey) -> KeyCreated:
        _check_globs(new.models)
        record, key = controller.keys.create(new.name, new.scopes, new.models)
        return KeyCreated(key=key, **_key_answer(record).model_dump())

    @app.delete("/api/v1/keys/{key_id}", status_code=204)
    async def revoke(key_id: str) -> None:
        controller.keys.revoke(key_id)


def _key_answer(record: KeyRecord) -> KeyAnswer:
    return KeyAnswer(
        id=record.id,
        name=record.name,
        scopes=sorted(record.scopes),
        models=list(record.models),
        created=record.created,
    )


def _check_globs(globs: list[str]) -> None:
    """Refuse a glob that could match no model name."""
    for glob in globs:
        try:
            check_name(glob.replace("*", "x").replace("?", "x"))
        except RbeeError:
            message = f"models: {glob[:100]!r} is not a model name with '*' or '?'"
            raise RequestError(400, message, param="models") from None


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
