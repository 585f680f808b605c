"""HTTP to a server on this machine: whole answers, streams of events, and what its refusals mean to a client."""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from rbee_runtime import protocol
from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines.served.dialects import Place

CONNECT_SECONDS = 5.0
ASK_SECONDS = 5.0
"""For a question about the server itself."""

WHOLE_SECONDS = 600.0
"""For answers without a stream, such as those of an embedding: the client's own patience ends long before."""

_LONGEST_WORDS = 1000
_CLIENTS_FAULTS = frozenset({400, 413, 415, 422})
_TOO_LONG = re.compile(r"context (length|size|window)|maximum model length|too (long|large) to process", re.IGNORECASE)
_DATA = "data:"
DONE = "[DONE]"


class Calls:
    """Calls to one server; RequestError for what a client is told, EngineCrashedError where it cannot be reached."""

    def __init__(self, place: Place, *, on_port: bool) -> None:
        transport = httpx.AsyncHTTPTransport(uds=None if on_port else str(place.socket), limits=_LIMITS)
        self._http = httpx.AsyncClient(
            transport=transport,
            base_url=f"http://127.0.0.1:{place.port}" if on_port else "http://engine",
            headers={"authorization": f"Bearer {place.key}"} if on_port else {},
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def status(self, path: str) -> int:
        """Return the status of a GET, 0 where nobody answers in time."""
        try:
            return (await self._http.get(path, timeout=ASK_SECONDS)).status_code
        except httpx.HTTPError:
            return 0

    async def text(self, path: str) -> str:
        """Return the body of a GET, "" where nobody answers."""
        try:
            found = await self._http.get(path, timeout=ASK_SECONDS)
        except httpx.HTTPError:
            return ""
        return found.text if found.status_code == httpx.codes.OK else ""

    async def post(self, path: str, body: Mapping[str, Any], kind: Any = Any) -> Any:
        """Return the JSON that a POST is answered with, as a value of this kind."""
        async with _reached():
            found = await self._http.post(path, json=body, timeout=WHOLE_SECONDS)
        if found.status_code != httpx.codes.OK:
            raise refusal(found.status_code, found.content)
        try:
            return protocol.decode(found.content, kind)
        except msgspec.DecodeError as error:
            raise EngineCrashedError(f"its answer to {path} is not what was asked for: {error}") from error

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the data of each event that a POST is answered with, `[DONE]` included; closing it ends the request."""
        async with _reached(), self._http.stream("POST", path, json=body) as found:
            if found.status_code != httpx.codes.OK:
                raise refusal(found.status_code, await found.aread())
            async for line in found.aiter_lines():
                if line.startswith(_DATA):
                    yield line.removeprefix(_DATA).strip()


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)


@asynccontextmanager
async def _reached() -> AsyncGenerator[None, None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise EngineCrashedError(f"it ended a connection: {error or type(error).__name__}") from error


def refusal(status: int, raw: bytes) -> RequestError:
    """Return what a client is told of an answer that is an error."""
    said = _words(raw)
    if status in _CLIENTS_FAULTS:
        return told(said or "the engine refuses this request")
    if status in {429, 503}:
        message = f"the engine takes no request now: {said}" if said else "the engine takes no request now"
        return RequestError(503, message, kind="server_error", code="engine_busy", retry_after=1)
    if status in {404, 405, 501}:
        return RequestError(400, f"this engine does not serve that: {said}", code="unsupported_parameter")
    return RequestError(
        500, f"the engine failed to answer: {said or status}", kind="server_error", code="engine_failed"
    )


def ended(error: Any) -> RequestError:
    """Return what a client is told of an error in the midst of an answer."""
    message = f"the engine ended this answer: {words_of({'error': error})}"
    if isinstance(error, dict) and error.get("code") in _CLIENTS_FAULTS:
        return told(message)
    return RequestError(500, message, kind="server_error", code="engine_failed")


def told(message: str) -> RequestError:
    """Return the refusal of a request that its client can mend."""
    if _TOO_LONG.search(message):
        return RequestError(400, message, code="context_length_exceeded", param="messages")
    return RequestError(400, message)


def _words(raw: bytes) -> str:
    """Return the sentence in an error's body, whichever of the common forms it has."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace").strip()[:_LONGEST_WORDS]
    return words_of(found)


def words_of(found: Any) -> str:
    """Return the sentence of an error: OpenAI's, the older one of vLLM, FastAPI's."""
    error = found.get("error", found) if isinstance(found, dict) else found
    said = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return str(said if isinstance(said, str) else json.dumps(said))[:_LONGEST_WORDS]
