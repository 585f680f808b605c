"""The worker's routes and who may call them."""

import os
import time
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rbee_runtime import __version__
from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.routes import anthropic_error
from rbee_runtime.link import Link, Role
from rbee_runtime.server import RoleGate, RoutePolicy
from rbee_runtime.worker.lifecycle import Phase, Worker
from rbee_runtime.worker.surface import anthropic, completions, openai, responses
from rbee_runtime.worker.surface.answering import AnswerRoute
from rbee_runtime.worker.surface.exchange import Exchange
from rbee_runtime.worker.surface.tokens import TokenizeRoute
from rbee_runtime.worker.surface.vectors import EmbeddingsRoute, RerankRoute

_QUEEN = frozenset({Role.QUEEN})
_WATCHERS = frozenset({Role.QUEEN, Role.HIVE})

POLICIES = (
    RoutePolicy("/v1/", _QUEEN),
    RoutePolicy("/tokenize", _QUEEN),
    RoutePolicy("/health", _WATCHERS),
    RoutePolicy("/ready", _WATCHERS),
    RoutePolicy("/info", _WATCHERS),
    RoutePolicy("/metrics", _WATCHERS),
)


def build(worker: Worker, link: Link) -> RoleGate:
    """Return the worker's ASGI app behind its gate."""
    views = _Views(worker)
    exchanges: dict[str, Exchange] = {
        "/v1/chat/completions": AnswerRoute(worker, openai.parse),
        "/v1/completions": AnswerRoute(worker, completions.parse, prompt="prompt"),
        "/v1/embeddings": EmbeddingsRoute(worker),
        "/v1/rerank": RerankRoute(worker),
        "/v1/responses": AnswerRoute(worker, responses.parse, prompt="input"),
        "/v1/messages": AnswerRoute(worker, anthropic.parse, anthropic_error),
        "/v1/messages/count_tokens": anthropic.CountRoute(worker),
        "/tokenize": TokenizeRoute(worker),
    }
    routes = [
        *(Route(path, exchange, methods=["POST"]) for path, exchange in exchanges.items()),
        Route("/v1/models", views.models),
        Route("/health", views.health),
        Route("/ready", views.ready),
        Route("/info", views.info),
        Route("/metrics", views.metrics),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    return RoleGate(_Straight(exchanges, app), link=link, policies=POLICIES)


class _Straight:
    """Sends what asks the engine past the framework, whose layers each token would have to go through."""

    def __init__(self, exchanges: Mapping[str, Exchange], others: ASGIApp) -> None:
        self._exchanges = exchanges
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchanges.get(scope["path"]) if scope.get("method") == "POST" else None
        await (exchange or self._others)(scope, receive, send)


class _Views:
    """What the worker says about itself."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._created = int(time.time())

    async def models(self, _: Request) -> Response:
        return JSONResponse(openai.model_list(self._worker.spec.model, self._created))

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(self, _: Request) -> Response:
        try:
            self._worker.demand_ready()
        except RequestError as refusal:
            body = {"ready": False, "state": self._worker.phase, "detail": str(refusal)}
            return JSONResponse(body, 503, refusal.headers())
        return JSONResponse({"ready": True, "state": self._worker.phase})

    async def info(self, _: Request) -> Response:
        return JSONResponse(self._info())

    async def metrics(self, _: Request) -> Response:
        worker = self._worker
        text, media = worker.metrics.exposed(
            worker.engine.gauges,
            in_flight=worker.in_flight,
            slots=worker.engine.slots,
            ready=worker.phase is Phase.READY,
        )
        return Response(text, media_type=media)

    def _info(self) -> dict[str, Any]:
        worker = self._worker
        return {
            "id": worker.spec.id,
            "model": worker.spec.model,
            "engine": worker.spec.engine,
            "spec": worker.spec.digest(),
            "context": worker.engine.context,
            "slots": worker.engine.slots,
            "in_flight": worker.in_flight,
            "loaded": round(worker.progress, 4),
            "pid": os.getpid(),
            "started": round(time.monotonic() - worker.born, 3),
            "version": __version__,
            "state": worker.phase,
        }


def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    refusal = RequestError(status, "this worker has no such route or method", code="unknown_route")
    return JSONResponse(refusal.body(), status, refusal.headers())
