"""The admin API: what the fleet is like, keys, draining. Every route needs a key with scope admin (see policy.py)."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from rbee_runtime import __version__
from rbee_runtime.errors import RbeeError, RequestError
from rbee_runtime.models.references import check_name
from rbee_runtime.queen import views
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.records import KeyRecord, Scope
from rbee_runtime.queen.views import HiveAnswer, KeyAnswer, ModelAnswer, WorkerAnswer


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
    """Answer to drain and undrain."""

    name: str
    drained: bool


def build(controller: Controller) -> FastAPI:
    """Return the admin application."""
    app = FastAPI(title="rbee queen", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    _report_errors(app)
    _fleet_routes(app, controller)
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
        return DrainAnswer(name=name, drained=True)

    @app.post("/api/v1/hives/{name}/undrain")
    async def undrain(name: str) -> DrainAnswer:
        controller.set_drained(name, drained=False)
        return DrainAnswer(name=name, drained=False)


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
