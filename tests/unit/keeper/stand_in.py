"""A stand-in for a queen, for the speed of unit tests: real HTTP, canned answers, every call remembered."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from rbee_runtime.server import bind

KEY = "rbee_abcdefgh_canary0canary0canary0"
NEW_KEY = "rbee_newnewne_shown0once"
DEVICE = {"id": "GPU-1", "kind": "cuda", "name": "Some GPU", "total": 24 << 30, "foreign": 3 << 30, "healthy": False}
FETCH = {"hive": "gpu1", "state": "fetching", "done": 43, "total": 100, "rate": 12.5 * 2**20, "eta": 30.0}
EVENTS = [
    {"id": 1, "time": 10.5, "kind": "worker_state", "subject": "toy-1", "data": {"state": "ready", "detail": ""}},
    {"id": 2, "time": 11.5, "kind": "model_state", "subject": "to\x1by", "data": {"state": "gone"}},
]
WORKER = {
    "host": "gpu1",
    "report": {
        "id": "toy-1", "state": "backoff", "since": 4.0, "detail": "crashed: boom", "unit": "rbee-worker@toy-1.service",
        "last_exit": "crashed", "exit_status": 1, "memory": {"GPU-1": 2 << 30}, "slots": 4,
        "address": "h", "port": 9001,
    },
    "wanted": {"devices": ["GPU-1"]},
    "next_step": "it is started again in 7 s",
    "streak": 3,
}  # fmt: skip
TABLES: dict[str, Any] = {
    "hives": [
        {
            "name": "gpu1", "state": "live", "drained": False, "heard": 2.1, "workers": 1, "engines": ["fake"],
            "url": "https://gpu1:8600", "devices": [DEVICE],
        },
    ],
    "workers": [
        {
            "id": "toy-1", "model": "toy", "hive": "gpu1", "state": "ready", "in_flight": 1, "slots": 4,
            "unit": "rbee-worker@toy-1.service",
        },
    ],
    "models": [
        {
            "name": "toy", "state": "ready", "ready": 1, "workers": 2, "missing": ["gpu2: too small"],
            "held": ["gpu1"], "fetches": [FETCH],
        },
    ],
    "devices": [DEVICE],
    "events": EVENTS,
    "toy-1": WORKER,
    "keys": [
        {
            "id": "abcdefgh", "name": "me", "scopes": ["infer"], "models": ["*"], "created": 1, "priority": "batch",
            "limits": {"concurrency": 4, "requests_per_minute": None, "tokens_per_minute": 9000},
            "expires": 1800000000, "expired": False, "used": 1790000040,
        },
    ],
    "usage": [
        {
            "day": "2026-11-30", "key": "abcdefgh", "name": "me", "model": "toy", "requests": 7, "prompt_tokens": 71,
            "answer_tokens": 72, "errors": 1, "estimated": 0,
        },
    ],
}  # fmt: skip


@dataclass
class StandIn:
    """What it says and what it was asked. `stream` is the body of a chat answer."""

    url: str = ""
    calls: list[str] = field(default_factory=list)
    bodies: list[dict[str, object]] = field(default_factory=list)
    stream: str = ""
    raw_paths: list[str] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)

    def app(self) -> Starlette:
        """Return the ASGI app."""
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        self.calls.append(f"{request.method} {request.url.path}")
        self.queries.append(dict(request.query_params))
        self.raw_paths.append(request.scope["raw_path"].decode())
        raw = await request.body()
        if raw:
            self.bodies.append(json.loads(raw))
        if request.url.path == "/health":
            return JSONResponse({"status": "ok", "version": "9.9"})
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": {"message": "bad key"}}, 401)
        return self._known(request)

    def _known(self, request: Request) -> Response:
        kind = request.url.path.rsplit("/", 1)[-1]
        if request.url.path == "/v1/models":
            return JSONResponse({"data": [{"id": "cold", "state": "loading"}, {"id": "toy", "state": "ready"}]})
        if request.url.path == "/v1/chat/completions":
            return PlainTextResponse(self.stream, media_type="text/event-stream")
        if request.method == "POST" and kind == "keys":
            return JSONResponse({"id": "newnewne", "key": NEW_KEY}, 201)
        if request.method == "DELETE" and kind != "pull":
            return Response(status_code=204)
        return self._of_host(kind, request)

    def _of_host(self, kind: str, request: Request) -> Response:
        if request.url.path == "/api/v1/events" and "events of the queen" not in TABLES:
            return JSONResponse({"error": {"message": "not found"}}, 404)
        if "gone" in request.url.path:
            return JSONResponse({"error": {"message": "there is no hive 'gone'"}}, 404)
        if kind == "logs":
            return PlainTextResponse(f"{request.url.query}\nline \x1b[31mtwo\n")
        if kind == "events" and "text/event-stream" in request.headers["accept"]:
            return PlainTextResponse(self._followed(request.headers["last-event-id"]), media_type="text/event-stream")
        return JSONResponse(TABLES.get(kind, {}))

    @staticmethod
    def _followed(last: str) -> str:
        told = [{"id": 0, "time": 9.0, "kind": "reset", "subject": last}, *EVENTS]
        return ": still here\n\n" + "".join(
            f"id: abc-{event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n" for event in told
        )


def chat_stream(*words: str, tokens: int | None = None, end: str = "data: [DONE]\n\n") -> str:
    """Return the text of a streamed answer."""
    chunks: list[dict[str, object]] = [{"choices": [{"delta": {"content": word}}]} for word in words]
    if tokens is not None:
        chunks.append({"choices": [], "usage": {"completion_tokens": tokens}})
    return ": ping\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


@contextmanager
def serving(stand_in: StandIn) -> Iterator[StandIn]:
    """Serve it from a thread on a free port of loopback."""
    listener = bind("127.0.0.1", 0)
    stand_in.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(stand_in.app(), lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield stand_in
    finally:
        server.should_exit = True
        thread.join()
