"""Who may have a request relayed, and what is written down of it."""

import re
import secrets
from collections.abc import Callable
from itertools import count

from rbee_runtime import logs
from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.exchange import Exchange, Outcome
from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.relay import Relay
from rbee_runtime.gateway.routes import HOT, HotRoute
from rbee_runtime.queen.admission import forbidden, unauthenticated
from rbee_runtime.queen.cors import Origins
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.records import KeyRecord, Scope
from rbee_runtime.queen.status import Status

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientDesk:
    """Takes what goes to workers; the rest is for the application."""

    def __init__(self, keys: Keys, relay: Relay, status: Status, origins: Origins) -> None:
        self._keys = keys
        self._origins = origins
        self._relay = relay
        self._status = status

    @property
    def leaving(self) -> bool:
        """Say whether connections are to end behind their answers."""
        return self._status.draining

    def headers_for(self, front: Front) -> bytes:
        """Return what an answer says to web pages, if any may ask."""
        return b"".join(b"%b: %b\r\n" % pair for pair in self._origins.headers(front.header(b"origin")))

    def take(self, front: Front) -> Exchange | None:
        """Return who answers the request whose head `front` has, None for the application."""
        route = HOT.get(front.url) or _route_of(front.url)
        if route is None or front.method != b"POST":
            return None
        key = self._keys.authenticate(authorization(front.header(b"authorization"), front.header(b"x-api-key")))
        return self._relay.take(
            front,
            route,
            key=key.id if key is not None else "",
            request_id=request_id_of(front.header(b"x-request-id")),
            refusal=_refusal(key),
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
        text = (
            f"info event=request id={outcome.request_id} method=POST path={outcome.path} status={outcome.status} "
            f"seconds={outcome.seconds:.3f}"
        )
        for name, value in (("key", outcome.key), ("worker", outcome.worker)):
            text += f" {name}={value}" if value else ""
        text += f" model={logs.quoted(outcome.model[:100])}" if outcome.model else ""
        text += f" attempts={outcome.attempts} sent={outcome.sent}" if outcome.attempts else f" sent={outcome.sent}"
        text += f" problem={logs.quoted(outcome.problem)}" if outcome.problem else ""
        self._stack.add(text)

    def flush(self) -> None:
        """Write what was not written yet."""
        self._stack.flush()


def _route_of(target: bytes) -> HotRoute | None:
    """Return the route of a target with a query or an address; a path is matched as it stands, nothing is decoded."""
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        path = b"/" + path.split(b"/", 3)[3] if path.count(b"/") > 2 else b"/"
    return HOT.get(path)


def authorization(given: bytes, own: bytes) -> str:
    """Return what a client shows; Anthropic's clients have a header of their own, `x-api-key`."""
    return given.decode("latin-1") or (f"Bearer {own.decode('latin-1')}" if own else "")


def _refusal(key: KeyRecord | None) -> RequestError | None:
    if key is None:
        return unauthenticated()
    return None if Scope.INFER in key.scopes else forbidden(Scope.INFER)
