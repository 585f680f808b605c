"""The one table of the hive's routes: app, role policy and OpenAPI document are made from it.

Who is asking is a role in a certificate (see `link.py`). The queen reads and commands; a hive may take blobs, to
copy models from a neighbour; `/metrics` is for the queen's certificate too, as there is no role for a monitor.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rbee_runtime.hive import log_views, model_views, openapi, views
from rbee_runtime.hive.answers import (
    DrainAnswer,
    DrainOrder,
    HealthAnswer,
    HiveModel,
    LedgerAccount,
    ReadyAnswer,
    VerifyAnswer,
    WorkerDetail,
)
from rbee_runtime.hive.facts import Facts, as_json
from rbee_runtime.hive.openapi import Operation, Parameter
from rbee_runtime.link import Role
from rbee_runtime.models.chunks import ChunkTable
from rbee_runtime.protocol import Desired, DesiredAck, DeviceReport, Event, Heartbeat, ModelReport, WorkerReport
from rbee_runtime.server import RoutePolicy
from rbee_runtime.streams import SSE

Handler = Callable[[Facts, Request], Awaitable[Response]]

ANYBODY: frozenset[Role] | None = None
QUEEN = frozenset({Role.QUEEN})
PEERS = frozenset({Role.QUEEN, Role.HIVE})

API = "/api/v1"
MODEL = f"{API}/models/{{name:path}}"
TEXT = "text/plain"


@dataclass(frozen=True, kw_only=True)
class ApiRoute(Operation):
    """One method of one path, who may call it, and what answers. There is no default for `roles`."""

    roles: frozenset[Role] | None
    handler: Handler

    @property
    def summary(self) -> str:
        """Return the handler's own sentence."""
        return (self.handler.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @property
    def public(self) -> bool:
        """Say whether anybody may call it."""
        return self.roles is None

    @property
    def policy(self) -> RoutePolicy:
        """Return the row for the gate."""
        return RoutePolicy(self.path, self.roles, frozenset({self.method}))


async def document(_: Facts, __: Request) -> Response:
    """Describe this API."""
    return as_json(openapi.document(ROUTES))


_LINES = Parameter(
    "lines", "query", f"At most so many lines, 1 to {log_views.MAX_LINES}; {log_views.LINES} if missing.", "integer"
)
_FOLLOW = Parameter("follow", "query", "1: go on with what is written from now on.", "integer")
_LAST = Parameter("last-event-id", "header", "Go on after this event.")
_RANGE = Parameter("range", "header", "One range of bytes, such as `bytes=0-1023`.")


def _written(path: str, handler: Handler, *failures: int) -> ApiRoute:
    """Return a route of lines that workers wrote."""
    return ApiRoute(
        "GET",
        path,
        str,
        media=(TEXT, SSE),
        parameters=(_LINES, _FOLLOW),
        failures=failures,
        roles=QUEEN,
        handler=handler,
    )


def _order(verb: str, answer: Any, handler: Handler) -> ApiRoute:
    """Return a route that does something with one model on this host's disk."""
    return ApiRoute("POST", f"{MODEL}/{verb}", answer, failures=(400, 404, 409, 503), roles=QUEEN, handler=handler)


ROUTES: tuple[ApiRoute, ...] = (
    ApiRoute("GET", "/health", HealthAnswer, roles=ANYBODY, handler=views.health),
    ApiRoute("GET", "/ready", ReadyAnswer, failures=(503,), roles=ANYBODY, handler=views.ready),
    ApiRoute("GET", "/metrics", str, media=(TEXT,), roles=QUEEN, handler=views.metrics),
    ApiRoute("GET", f"{API}/openapi.json", dict, roles=QUEEN, handler=document),
    ApiRoute("GET", f"{API}/info", Heartbeat, roles=QUEEN, handler=views.info),
    ApiRoute("GET", f"{API}/devices", tuple[DeviceReport, ...], roles=QUEEN, handler=views.devices),
    ApiRoute("GET", f"{API}/ledger", tuple[LedgerAccount, ...], roles=QUEEN, handler=views.ledger),
    ApiRoute("GET", f"{API}/workers", tuple[WorkerReport, ...], roles=QUEEN, handler=views.workers),
    _written(f"{API}/logs", log_views.logs, 400, 503),
    _written(f"{API}/workers/{{worker}}/logs", log_views.log, 400, 404, 503),
    ApiRoute("GET", f"{API}/workers/{{worker}}", WorkerDetail, failures=(400, 404), roles=QUEEN, handler=views.worker),
    ApiRoute("GET", f"{API}/models", tuple[HiveModel, ...], roles=QUEEN, handler=model_views.models),
    _order("verify", VerifyAnswer, model_views.verify),
    _order("pin", HiveModel, model_views.pin),
    _order("unpin", HiveModel, model_views.unpin),
    _order("retry", HiveModel, model_views.retry),
    ApiRoute("GET", MODEL, HiveModel, failures=(400, 404), roles=QUEEN, handler=model_views.model),
    ApiRoute("DELETE", MODEL, None, failures=(400, 404, 409, 503), roles=QUEEN, handler=model_views.delete),
    ApiRoute("GET", f"{API}/desired", Desired, failures=(404,), roles=QUEEN, handler=views.held_document),
    ApiRoute(
        "PUT",
        f"{API}/desired",
        DesiredAck,
        body=Desired,
        failures=(400, 409, 413, 503),
        roles=QUEEN,
        handler=views.follow_document,
    ),
    ApiRoute("GET", f"{API}/drain", DrainAnswer, roles=QUEEN, handler=views.draining),
    ApiRoute(
        "POST",
        f"{API}/drain",
        DrainAnswer,
        body=DrainOrder,
        failures=(400, 409, 413, 503),
        roles=QUEEN,
        handler=views.drain,
    ),
    ApiRoute(
        "GET",
        f"{API}/events",
        tuple[Event, ...],
        media=("application/json", SSE),
        parameters=(_LAST,),
        roles=QUEEN,
        handler=views.events,
    ),
    ApiRoute(
        "GET",
        f"{API}/manifests/{{name:path}}",
        ModelReport,
        failures=(400, 404, 503),
        roles=PEERS,
        handler=model_views.manifest,
    ),
    ApiRoute(
        "GET",
        f"{API}/blobs/{{blob}}/chunks",
        ChunkTable,
        failures=(400, 404, 503),
        roles=PEERS,
        handler=model_views.chunks,
    ),
    ApiRoute(
        "GET",
        f"{API}/blobs/{{blob}}",
        bytes,
        media=("application/octet-stream",),
        parameters=(_RANGE,),
        failures=(400, 404, 416, 503),
        roles=PEERS,
        handler=model_views.blob,
    ),
)

POLICIES = (*(route.policy for route in ROUTES), RoutePolicy(f"{API}/", QUEEN))
"""The last row lets the queen hear that something is not there; everybody else hears that it is not for them."""
