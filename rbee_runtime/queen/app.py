"""What of the client endpoint is not relayed: models, probes and the admin API, one log line per request."""

import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from rbee_runtime import logs
from rbee_runtime.errors import RequestError
from rbee_runtime.framing import Headers
from rbee_runtime.gateway.routes import ALIAS
from rbee_runtime.queen import admin, cors, policy, views
from rbee_runtime.queen.admin_keys import KEY
from rbee_runtime.queen.admission import forbidden, unauthenticated
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.cors import Origins
from rbee_runtime.queen.desk import authorization, request_id_of
from rbee_runtime.queen.figures import OTHER
from rbee_runtime.queen.records import KeyRecord
from rbee_runtime.queen.records import Scope as KeyScope
from rbee_runtime.queen.status import Phase, Status

MAX_BODY_BYTES = 64 * 1024
"""Of a change of the admin API: a key with a hundred patterns has some 10 KiB."""


class ClientApp:
    """Pure ASGI: a route is looked up in the table of policy, so that what it does not cover is refused."""

    def __init__(
        self,
        controller: Controller,
        own: FastAPI,
        status: Status,
        origins: Origins,
        asked: Callable[[str, int], None] = lambda _route, _status: None,
    ) -> None:
        self._asked = asked
        self._controller = controller
        self._origins = origins
        self._admin = own
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        origin = _header(scope, b"origin")
        answer = _Answer(scope, send, self._origins.headers(origin), draining=self._status.draining)
        try:
            await self._route(scope, receive, answer)
        except RequestError as error:
            await answer.error(error)
        answer.log()
        self._asked(answer.route, answer.status)

    async def _route(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        path = scope["path"].removeprefix(ALIAS) if scope["path"].startswith(f"{ALIAS}/v1/") else scope["path"]
        row = policy.row_for(path, scope["method"])
        if row is None:
            raise RequestError(404, f"there is no route {path[:100]}", code="unknown_route")
        answer.route = row.path
        if scope["method"] == "OPTIONS" and (allowed := self._preflight(scope, path)):
            await answer.bare(204, allowed)
            return
        if scope["method"] not in row.methods:
            taken = sorted(self._taken(path))
            answer.allow(taken)
            raise RequestError(405, f"{path[:100]} takes {' or '.join(taken)}", code="method_not_allowed")
        if row.scope is None:
            await self._public(path, answer)
            return
        own = b"" if row.scope is not KeyScope.INFER else _header(scope, b"x-api-key")
        key = self._controller.keys.authenticate(authorization(_header(scope, b"authorization"), own))
        if key is None:
            raise unauthenticated()
        answer.key = key.id
        if row.scope not in key.scopes:
            raise forbidden(row.scope)
        await self._allowed(path, key, scope, receive, answer)

    def _preflight(self, scope: Scope, path: str) -> Headers:
        if not _header(scope, cors.ASKED_METHOD):
            return []
        return self._origins.preflight(_header(scope, b"origin"), policy.methods_of(path))

    def _taken(self, path: str) -> frozenset[str]:
        """Return the methods that a path takes, or raise RequestError if the admin API has no such path."""
        return admin.methods_of(self._admin, path) if policy.is_admin(path) else policy.methods_of(path)

    async def _allowed(self, path: str, key: KeyRecord, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        scope[KEY] = key
        if path == policy.MODELS:
            await answer.json(200, views.openai_models(self._controller, key))
        elif path.startswith(policy.MODEL):
            await answer.json(200, views.openai_model(self._controller, key, path.removeprefix(policy.MODEL)))
        elif self._status.draining and scope["method"] not in policy.READS:
            # The database is the next queen's already.
            raise RequestError(503, "this queen is leaving; ask again", kind="server_error", retry_after=1)
        else:
            changes = scope["method"] in policy.CHANGES
            heard = await _heard(scope, receive) if changes else receive
            await self._admin(scope, heard, _once(self._controller.written, answer) if changes else answer)

    async def _public(self, path: str, answer: "_Answer") -> None:
        if path == policy.HEALTH:
            await answer.json(200, self._status.health())
            return
        problems = [self._controller.fleet.problem, self._controller.store_problem]
        body = {"status": self._status.phase, "detail": "; ".join(problem for problem in problems if problem)}
        await answer.json(200 if self._status.phase is Phase.READY else 503, body)


class _Answer:
    """The `send` of one request: adds the request id, remembers the status for the log."""

    def __init__(self, scope: Scope, send: Send, extra: Headers, *, draining: bool) -> None:
        self.request_id = request_id_of(_header(scope, b"x-request-id"))
        self.key = ""
        self.route = OTHER
        self.status = 0
        self._problem = ""
        self._scope = scope
        self._send = send
        self._extra = [(b"x-request-id", self.request_id.encode()), *extra]
        if draining:
            self._extra.append((b"connection", b"close"))
        self._started = time.monotonic()

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kept = [pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id"]
            message = {**message, "headers": [*kept, *self._extra]}
        await self._send(message)

    async def json(self, status: int, body: object, extra: dict[str, str] | None = None) -> None:
        """Send a JSON answer."""
        data = msgspec.json.encode(body)
        pairs = {"content-type": "application/json", "content-length": str(len(data)), **(extra or {})}
        headers = [(name.encode(), value.encode()) for name, value in pairs.items()]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": data})

    async def bare(self, status: int, headers: Headers) -> None:
        """Send an answer without a body."""
        own = {name for name, _ in headers}
        self._extra = [pair for pair in self._extra if pair[0] not in own]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": b""})

    def allow(self, methods: Sequence[str]) -> None:
        """Say which methods the path takes."""
        self._extra.append((b"allow", ", ".join(methods).encode()))

    async def error(self, error: RequestError) -> None:
        """Send a refusal."""
        self._problem = str(error)
        await self.json(error.status, error.body(), error.headers())

    def log(self) -> None:
        """Write the request's line; probes, and reads that went well, have none: people and tools poll them."""
        path = self._scope["path"]
        read = self._scope["method"] in policy.READS
        if path in (policy.HEALTH, policy.READY) or (read and self.status < 400):
            return
        logs.info(
            "request",
            id=self.request_id,
            method=self._scope["method"],
            path=path[:100],
            status=self.status,
            seconds=time.monotonic() - self._started,
            key=self.key,
            problem=self._problem,
        )


def _once(written: Callable[[], Awaitable[None]], answer: Send) -> Send:
    """Return a `send` that has what was changed written before it says so."""

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await written()
        await answer(message)

    return send


async def _heard(scope: Scope, receive: Receive) -> Receive:
    """Return what gives the whole body of a change at once, or refuse one that is too large or no JSON."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return receive
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(413, f"a request here has at most {MAX_BODY_BYTES} bytes", code="request_too_large")
        if not message.get("more_body"):
            break
    media = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    if body and media != b"application/json":
        raise RequestError(415, "send JSON with `content-type: application/json`", code="unsupported_media_type")
    parts = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return parts.pop() if parts else await receive()

    return again


def _header(scope: Scope, name: bytes) -> bytes:
    """Return the first header of that name (lower case), or nothing."""
    return next((value for key, value in scope["headers"] if key == name), b"")
