"""What is relayed to workers: each path with the form that its clients expect errors in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from rbee_runtime.errors import RequestError
from rbee_runtime.protocol import decode

ALIAS = "/openai"
"""Clients of some hosted services put this before `/v1`."""

_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """Return an error as Anthropic's clients read it."""
    kind = _ANTHROPIC_KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


@dataclass(frozen=True)
class HotRoute:
    """One path of workers; `refused` makes the body of an error, `streams` says whether it can answer in events."""

    path: str
    refused: Callable[[RequestError], dict[str, Any]] = RequestError.body
    streams: bool = True

    def event(self, error: RequestError) -> bytes:
        """Return the event that ends a stream with an error, and says itself what no header can any more."""
        body = self.refused(error)
        if error.retry_after is not None:
            body["error"]["retry_after"] = error.retry_after
        return _event(body)

    def event_of(self, answer: bytes) -> bytes:
        """Return the event that ends a stream with what a worker said in a whole answer."""
        body = self.refused(RequestError(502, "the worker refused the request without a reason", kind="server_error"))
        try:
            given = decode(answer, object)
        except msgspec.DecodeError:
            given = None
        if isinstance(given, dict) and given.get("error"):
            body["error"] = given["error"]
        return _event(body)


def _event(body: dict[str, Any]) -> bytes:
    # Anthropic's events have names, which their bodies repeat.
    name = f"event: {body['type']}\n" if "type" in body else ""
    return name.encode() + b"data: " + msgspec.json.encode(body) + b"\n\n"


_ROUTES = (
    HotRoute("/v1/chat/completions"),
    HotRoute("/v1/completions"),
    HotRoute("/v1/embeddings", streams=False),
    HotRoute("/v1/rerank", streams=False),
    HotRoute("/v1/responses"),
    HotRoute("/v1/messages", anthropic_error),
    HotRoute("/v1/messages/count_tokens", anthropic_error, streams=False),
    HotRoute("/tokenize", streams=False),
)

HOT: dict[bytes, HotRoute] = {route.path.encode(): route for route in _ROUTES}
"""By the target of a request."""

HOT |= {ALIAS.encode() + path: route for path, route in HOT.items() if path.startswith(b"/v1/")}
