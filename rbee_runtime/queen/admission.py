"""Who may use which worker now: pure policy, no sockets, no clocks but the one in its catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.grants import may_use
from rbee_runtime.queen.records import KeyRecord, Scope
from rbee_runtime.queen.seats import Lack, Seat

HELP_SECONDS = 60
"""After which a client may ask again for what waits for a person."""


class Catalogue(Protocol):
    """What policy looks things up in."""

    def key(self, key_id: str) -> KeyRecord | None:
        """Return a key that works, or None."""
        ...

    def resolve(self, name: str) -> str:
        """Return the name of the model that clients may call so."""
        ...

    def continues(self, model: str) -> bool:
        """Say whether another worker of the model is to go on with a stream whose worker is gone."""
        ...

    def load_wait(self, model: str) -> float | None:
        """Return how many seconds a request waits for a model that is not ready, None for one that is not declared."""
        ...

    def seats(self, model: str) -> Sequence[Seat]:
        """Return the workers of a model."""
        ...

    def choose(self, ask: Ask) -> Seat | Lack:
        """Return the worker that takes a request, or why none does."""
        ...

    def longest(self, model: str) -> int:
        """Return the longest context that a worker of a model has, in tokens."""
        ...

    def hopeless(self, model: str) -> str:
        """Return why waiting for a worker of this model is in vain, or an empty string."""
        ...

    def retry_after(self, model: str) -> float:
        """Return for how many seconds it is in vain for sure, 0 if until somebody helps."""
        ...

    def absence(self, model: str) -> str:
        """Return what keeps the workers of this model from being ready now, or an empty string."""
        ...


@dataclass(frozen=True)
class Refusal:
    """Not now, or not at all: `wait` is how many seconds it is worth to wait before the error is told.

    `cold` means that there is no worker to wait for yet, only one that may become ready.
    """

    error: RequestError
    wait: float = 0.0
    cold: bool = False


def admit(ask: Ask, catalogue: Catalogue, *, queue_wait: float) -> Seat | Refusal:
    """Return where a request goes, or why it does not: key, then scope and model, then workers."""
    problem = _not_allowed(ask, catalogue)
    if problem is not None:
        return Refusal(problem)
    load_wait = catalogue.load_wait(ask.model)
    if load_wait is None:
        return Refusal(unknown_model(ask.model))
    if ask.pin:
        return _to_that_worker(ask, catalogue)
    found = catalogue.choose(ask)
    return found if isinstance(found, Seat) else _lacking(found, ask, load_wait, catalogue, queue_wait)


def _to_that_worker(ask: Ask, catalogue: Catalogue) -> Seat | Refusal:
    """Return the worker that a person wants to try, be it left alone by everybody else; nobody waits for it."""
    for seat in catalogue.seats(ask.model):
        if seat.worker == ask.pin and seat.usable and seat.worker not in ask.tried:
            return seat if seat.in_flight < seat.slots else Refusal(_busy(ask.model))
    message = f"{ask.model} has no worker {ask.pin[:100]!r} that is ready; `rbee-keeper workers` lists them"
    return Refusal(RequestError(404, message, code="worker_not_found"))


def _lacking(lack: Lack, ask: Ask, load_wait: float, catalogue: Catalogue, queue_wait: float) -> Refusal:
    if lack is Lack.UNFIT:
        return Refusal(_too_long(ask, catalogue.longest(ask.model)))
    if lack is Lack.OTHERS or (lack is Lack.ABSENT and ask.tried):
        return Refusal(_unavailable("no other worker of this model is ready"))
    if lack is Lack.ABSENT:
        return _cold(ask.model, load_wait, catalogue)
    return Refusal(_busy(ask.model), queue_wait)


def unauthenticated() -> RequestError:
    """Return the one answer to a missing, malformed, unknown, wrong, revoked or expired key."""
    return RequestError(
        401,
        "no valid API key was given; send it as `Authorization: Bearer rbee_…`",
        kind="authentication_error",
        code="invalid_api_key",
    )


def forbidden(scope: Scope) -> RequestError:
    """Return the answer to a key without the scope that a route needs."""
    return RequestError(403, f"this key has no scope {scope}", kind="permission_error", code="insufficient_scope")


def unknown_model(name: str) -> RequestError:
    """Return the answer to a model that the fleet does not declare."""
    message = f"the model {name[:100]!r} is not declared; GET /v1/models lists those that are"
    return RequestError(404, message, code="model_not_found", param="model")


def _not_allowed(ask: Ask, catalogue: Catalogue) -> RequestError | None:
    key = catalogue.key(ask.key)
    if key is None:
        return unauthenticated()
    if Scope.INFER not in key.scopes:
        return forbidden(Scope.INFER)
    if not may_use(key, ask.model) and not (ask.asked and may_use(key, ask.asked)):
        message = f"this key may not use the model {(ask.asked or ask.model)[:100]!r}"
        return RequestError(403, message, kind="permission_error", code="model_not_allowed", param="model")
    return None


def _cold(model: str, load_wait: float, catalogue: Catalogue) -> Refusal:
    if hopeless := catalogue.hopeless(model):
        again = ceil(catalogue.retry_after(model)) or HELP_SECONDS
        return Refusal(_unavailable(f"{model}: {hopeless}", retry_after=again))
    absence = catalogue.absence(model)
    message = f"{model} is not ready yet" + (f" ({absence})" if absence else "")
    return Refusal(_unavailable(message, retry_after=10), load_wait, cold=True)


def _unavailable(message: str, retry_after: int = 2) -> RequestError:
    return RequestError(503, message, kind="server_error", code="model_not_ready", retry_after=retry_after)


def leaving(model: str) -> RequestError:
    """Return the answer to a request for a model that is not ready, by a queen that hears of no worker any more."""
    message = f"{model} is not ready yet and this queen is being replaced; ask again"
    return RequestError(503, message, kind="server_error", code="queen_restarting", retry_after=1)


def _too_long(ask: Ask, longest: int) -> RequestError:
    message = (
        f"the prompt has {ask.floor} tokens at least, and no worker of {ask.model} takes more than {longest}; "
        "shorten it or ask another model"
    )
    return RequestError(400, message, code="context_length_exceeded")


def _busy(model: str) -> RequestError:
    message = f"every slot of {model} is busy; try again later or raise its replicas or slots in the inventory"
    return RequestError(429, message, kind="rate_limit_error", code="queue_timeout", retry_after=5)


def queue_full(model: str, bound: int) -> RequestError:
    """Return the answer when too many wait already."""
    message = f"{bound} requests wait for {model} already; try again later"
    return RequestError(429, message, kind="rate_limit_error", code="queue_full", retry_after=5)
