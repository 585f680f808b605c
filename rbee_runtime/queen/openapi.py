"""The OpenAPI 3.1 document of the admin API: what FastAPI knows of it, and what it cannot know.

That is the form of refusals, which routes refuse how, which scope of a key each asks for, and what hives answer.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path
from fastapi.openapi.utils import get_openapi

from rbee_runtime import __version__
from rbee_runtime.hive.answers import ErrorAnswer, HiveModel, VerifyAnswer, WorkerDetail
from rbee_runtime.protocol import DeviceReport, Event
from rbee_runtime.queen import policy

HiveName = Annotated[str, Path(min_length=1, max_length=253)]
WorkerId = Annotated[str, Path(min_length=1, max_length=320)]
ModelName = Annotated[str, Path(min_length=1, max_length=256)]
KeyId = Annotated[str, Path(min_length=1, max_length=100)]
MAX_EVENT_ID = 100

JSON, TEXT, SSE = "application/json", "text/plain", "text/event-stream"
_REFERENCES = "#/components/schemas/{name}"
_EVENTS = tuple[Event, ...]

_DISK = "/api/v1/hives/{name}/models/{model}"

TOLD: dict[tuple[str, str], tuple[Any, tuple[str, ...]]] = {
    ("GET", "/metrics"): (str, (TEXT,)),
    ("GET", "/api/v1/openapi.json"): (dict, (JSON,)),
    ("GET", "/api/v1/events"): (_EVENTS, (JSON, SSE)),
    ("GET", "/api/v1/hives/{name}/events"): (_EVENTS, (JSON, SSE)),
    ("GET", "/api/v1/hives/{name}/devices"): (tuple[DeviceReport, ...], (JSON,)),
    ("GET", "/api/v1/hives/{name}/models"): (tuple[HiveModel, ...], (JSON,)),
    ("GET", _DISK): (HiveModel, (JSON,)),
    ("POST", f"{_DISK}/verify"): (VerifyAnswer, (JSON,)),
    ("GET", "/api/v1/workers/{worker}"): (WorkerDetail, (JSON,)),
    ("GET", "/api/v1/workers/{worker}/logs"): (str, (TEXT, SSE)),
}
"""What answers that are no pydantic models hold, and in which forms, the typed one first."""

_OF_HIVES = (404, 429, 500, 502, 503)
"""How reads fail that a hive answers: it is not known, too many streams, its own fault or disk, or it is away."""

FAILURES: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/api/v1/events"): (400, 429),
    ("GET", "/api/v1/hives/{name}/devices"): _OF_HIVES,
    ("GET", "/api/v1/hives/{name}/models"): _OF_HIVES,
    ("GET", "/api/v1/hives/{name}/events"): _OF_HIVES,
    ("GET", _DISK): _OF_HIVES,
    ("DELETE", _DISK): (*_OF_HIVES, 409),
    ("POST", f"{_DISK}/verify"): (*_OF_HIVES, 409),
    ("POST", f"{_DISK}/pull"): (404, 409, 503),
    ("DELETE", f"{_DISK}/pull"): (404, 409),
    ("GET", "/api/v1/workers/{worker}"): _OF_HIVES,
    ("GET", "/api/v1/workers/{worker}/logs"): _OF_HIVES,
    ("POST", "/api/v1/models"): (409,),
    ("GET", "/api/v1/models/{name}/explain"): (404,),
    ("GET", "/api/v1/usage"): (503,),
    ("POST", "/api/v1/hives/{name}/drain"): (404,),
    ("POST", "/api/v1/hives/{name}/undrain"): (404,),
    ("POST", "/api/v1/models/{name}/load"): (404,),
    ("POST", "/api/v1/models/{name}/unload"): (404, 409),
    ("POST", "/api/v1/workers/{worker}/move"): (404, 409),
    ("DELETE", "/api/v1/keys/{key_id}"): (404, 409),
}
"""How routes refuse besides what their form says: each 401 and 403, one with parameters 400, changes 413, 415, 503."""


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document of an application's routes."""
    built = get_openapi(
        title="rbee queen",
        version=__version__,
        openapi_version="3.1.0",
        description="Errors have OpenAI's shape. A key opens what its scopes say; none of them includes another.",
        routes=app.routes,
    )
    kinds = [kind for kind, _ in TOLD.values() if kind not in {str, dict}]
    named, components = msgspec.json.schema_components([*kinds, ErrorAnswer], ref_template=_REFERENCES)
    schemas = dict(zip([*kinds, ErrorAnswer], named, strict=True))
    for path, method, operation in _operations(built):
        _told(path, method, operation, schemas)
        _refusals(path, method, operation, schemas[ErrorAnswer])
        scope = next(row.scope for row in policy.POLICY if row.covers(path) and method in row.methods)
        operation["security"] = [{"key": [str(scope)]}]
        operation["summary"] = operation.pop("description").rstrip(".")
    kept = built["components"]["schemas"]
    # What FastAPI would answer to what cannot be read; ours has the form of every refusal.
    built["components"]["schemas"] = components | {
        name: schema for name, schema in kept.items() if name not in {"HTTPValidationError", "ValidationError"}
    }
    words = "`Authorization: Bearer rbee_…`; the scope that a route asks for stands beside it."
    built["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": words}}
    return built


def _operations(built: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in built["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _told(path: str, method: str, operation: dict[str, Any], schemas: dict[Any, dict[str, Any]]) -> None:
    if (method, path) in TOLD:
        kind, media = TOLD[method, path]
        typed = {"type": "object"} if kind is dict else schemas.get(kind, {"type": "string"})
        content = {each: {"schema": typed if each == JSON else {"type": "string"}} for each in media}
        operation["responses"]["200"] = {"description": "as asked", "content": content}


def _refusals(path: str, method: str, operation: dict[str, Any], schema: dict[str, Any]) -> None:
    operation["responses"].pop("422", None)
    for status in _statuses(path, method, operation):
        said = {"description": HTTPStatus(status).phrase.lower(), "content": {JSON: {"schema": schema}}}
        operation["responses"][str(status)] = said


def _statuses(path: str, method: str, operation: dict[str, Any]) -> Iterable[int]:
    formed = operation.get("parameters") or "requestBody" in operation
    changes = (413, 415, 503) if method in policy.CHANGES else ()
    return sorted({401, 403, *((400,) if formed else ()), *changes, *FAILURES.get((method, path), ())})
