"""Who may have a request relayed, and what is written down of it."""

import re
import secrets
from collections.abc import Callable
from itertools import count

from rbee_runtime import logs
from rbee_runtime.errors import RequestError
from rbee_runtime.framing import Headers
from rbee_runtime.gateway.exchange import Exchange, Outcome
from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.relay import Relay
from rbee_runtime.gateway.routes import HOT, HotRoute
from rbee_runtime.queen.admission import forbidden, unauthenticated
from rbee_runtime.queen.cors import Origins
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.records import KeyRecord, Scope
from rbee_runtime.queen.status import Status

PIN = b"x-rbee-worker"
"""For operators: only this worker is to answer."""

_PINNED = re.compile(rb"/api/v1/workers/([A-Za-z0-9._-]{1,128})/proxy(/.*)")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientDesk:
    """Takes what goes to workers; the rest is for the application. `left` are headers about what is left of limits."""

    def __init__(
        self,
        keys: Keys,
        relay: Relay,
        status: Status,
        origins: Origins,
        left: Callable[[str], Headers] = lambda _key: [],
    ) -> None:
        self._keys = keys
        self._origins = origins
        self._left = left
        self._relay = relay
        self._status = status

    @property
    def leaving(self) -> bool:
        """Say whether connections are to end behind their answers."""
        return self._status.draining

    def headers_for(self, front: Front) -> bytes:
        """Return what an answer says of the limits of its key, and to web pages, if any may ask."""
        found = [*self._left(front.holder), *self._origins.headers(front.header(b"origin"))]
        return b"".join([b"%b: %b\r\n" % pair for pair in found])

    def take(self, front: Front) -> Exchange | None:
        """Return who answers the request whose head `front` has, None for the application."""
        route, pin = HOT.get(front.url), front.header(PIN).decode("latin-1")
        if route is None:
            route, by_path = _route_of(front.url)
            pin = by_path or pin
        if route is None or front.method != b"POST":
            return None
        key = self._keys.authenticate(authorization(front.header(b"authorization"), front.header(b"x-api-key")))
        front.holder = key.id if key is not None else ""
        return self._relay.take(
            front,
            route,
            key=front.holder,
            request_id=request_id_of(front.header(b"x-request-id")),
            pin=pin,
            refusal=_refusal(key, Scope.INFER, *([Scope.ADMIN_READ] if pin else [])),
        )


def request_id_of(given: bytes) -> str:
    """Return the id that a client gave its request, or a new one: this process's own letters and a number."""
    if given and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}-{next(_NUMBERS):x}"


_PROCESS, _NUMBERS = secrets.token_hex(4), count(1)


class Journal:
    """Writes a line for each request that is over."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._stack = logs.Stack(later)

    def over(self, outcome: Outcome) -> None:
        """Note one request."""
        self._stack.add(_object(outcome) if logs.is_json() else _line(outcome))

    def flush(self) -> None:
        """Write what was not written yet."""
        self._stack.flush()


def _line(outcome: Outcome) -> str:
    """Return the line of a request, without the detour through a table: there are thousands a second."""
    text = (
        f"info event=request id={outcome.request_id} method=POST path={outcome.path} status={outcome.status} "
        f"seconds={outcome.seconds:.3f}"
    )
    for name, value in (("key", outcome.key), ("worker", outcome.worker)):
        text += f" {name}={value}" if value else ""
    text += f" model={logs.quoted(outcome.model[:100])}" if outcome.model else ""
    text += f" attempts={outcome.attempts} sent={outcome.sent}" if outcome.attempts else f" sent={outcome.sent}"
    text += f" continued={outcome.continued}" if outcome.continued else ""
    text += f" problem={logs.quoted(outcome.problem)}" if outcome.problem else ""
    return text


def _object(outcome: Outcome) -> str:
    """Return the same as an object; what is nothing is not there either."""
    fields = {
        "id": outcome.request_id,
        "method": "POST",
        "path": outcome.path,
        "status": outcome.status,
        "seconds": outcome.seconds,
        "key": outcome.key,
        "worker": outcome.worker,
        "model": outcome.model[:100],
        "attempts": outcome.attempts or None,
        "sent": outcome.sent,
        "continued": outcome.continued or None,
        "problem": outcome.problem,
    }
    return logs.line("info", "request", fields)


def _route_of(target: bytes) -> tuple[HotRoute | None, str]:
    """Return the route of a target that is no plain one, and the worker that it names.

    A path is matched as it stands, nothing is decoded.
    """
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        path = b"/" + path.split(b"/", 3)[3] if path.count(b"/") > 2 else b"/"
    pinned = _PINNED.fullmatch(path)
    return (HOT.get(pinned[2]), pinned[1].decode()) if pinned else (HOT.get(path), "")


def authorization(given: bytes, own: bytes) -> str:
    """Return what a client shows; Anthropic's clients have a header of their own, `x-api-key`."""
    return given.decode("latin-1") or (f"Bearer {own.decode('latin-1')}" if own else "")


def _refusal(key: KeyRecord | None, *needed: Scope) -> RequestError | None:
    if key is None:
        return unauthenticated()
    lacking = next((scope for scope in needed if scope not in key.scopes), None)
    return forbidden(lacking) if lacking is not None else None
