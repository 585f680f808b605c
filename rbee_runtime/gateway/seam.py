"""What the relay asks of whoever owns policy: a lease on a worker, and whether another try is allowed.

The relay knows sockets and bytes; it knows nothing of keys, models or placement. A relay of another make goes behind
the same seam.
"""

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from rbee_runtime.errors import RbeeError, RequestError
from rbee_runtime.gateway.upstream import Pool


class Ask(msgspec.Struct, frozen=True):
    """One request as policy sees it: who asks, for which model, and which workers have failed it already.

    `size` is bytes of its body, `limit` the most tokens that its client asks for (0: it did not say), `asked` how its
    client calls the model, `pin` the only worker that it may go to ("": any). `opening` is the first bytes of its
    prompt as they came, `floor` how many tokens that has for sure (0: not counted). `revision` is that of the only
    workers that may have it ("": any): they go on with what one of them began.
    """

    key: str
    model: str
    tried: frozenset[str] = frozenset()
    size: int = 0
    limit: int = 0
    asked: str = ""
    pin: str = ""
    opening: bytes = b""
    floor: int = 0
    revision: str = ""


@dataclass(frozen=True)
class Door:
    """How a server that is not the fleet's own is entered.

    By connections that show nothing of the fleet, under its name of the model, with its own `authorization` ("": none).
    """

    pool: Pool = field(repr=False)
    model: str
    authorization: str = field(default="", repr=False)


class Lease(Protocol):
    """A slot of one worker, held from admission to the last byte."""

    @property
    def worker(self) -> str:
        """Return the worker's id."""
        ...

    @property
    def url(self) -> str:
        """Return where the worker listens, without a path."""
        ...

    @property
    def door(self) -> Door | None:
        """Return how a server that is not ours is entered, None for a worker of the fleet."""
        ...

    @property
    def revision(self) -> str:
        """Return what tells which model, and how, the worker runs; "" if nobody knows for sure."""
        ...

    def settle(self, *, answered: bool, reached: bool = True) -> None:
        """Say whether the worker did its part, so that a failing one is left alone until it is likely to be back."""
        ...

    def spent(self, prompt: int, answer: int) -> None:
        """Say how many tokens an answer cost, as the worker counted them; at most once, and before `release`."""
        ...

    def release(self) -> None:
        """Give the slot back; further calls do nothing."""
        ...


class Gate(Protocol):
    """Policy: who may use which worker now."""

    def resolve(self, model: str) -> str:
        """Return the name of the model that clients may call so."""
        ...

    def continues(self, model: str) -> bool:
        """Say whether another worker of the model is to go on with a stream whose worker is gone."""
        ...

    def at_once(self, ask: Ask) -> Lease | None:
        """Return a lease if one is to be had without waiting, None if not yet, or raise RequestError."""
        ...

    async def lease(self, ask: Ask) -> Lease:
        """Return a lease, after waiting if that is worth it, or raise RequestError."""
        ...

    def may_retry(self) -> bool:
        """Say whether the budget allows one more try; a yes is counted."""
        ...


@dataclass(frozen=True)
class Limits:
    """Bounds of one exchange, in seconds and bytes.

    There is no total limit: it would cut long answers. `first_byte` is long because a CPU may read a long prompt for
    minutes and an answer that is not streamed has no byte before its last one. `stall` is how long a client may take
    to make room for more. `pings` is how long a stream stays silent before and between comment lines.
    """

    body_bytes: int = 10 * 1024 * 1024
    body_seconds: float = 30.0
    first_byte: float = 600.0
    idle: float = 120.0
    stall: float = 30.0
    pings: float = 15.0
    whole_bytes: int = 1024 * 1024
    retries: int = 2


class UpstreamFailure(RbeeError):  # noqa: N818 - it is an outcome of a try, turned into a RequestError for the client
    """A worker did not do its part; `error` is what the client gets if nobody else does.

    `reached` is False when no connection came about, or a worker that loads or ends said that it did not take it: the
    request has done nothing yet and may wait for any worker.
    """

    def __init__(self, error: RequestError, *, blame: bool = True, reached: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.blame = blame
        self.reached = reached


def worker_failed(detail: str, *, reached: bool = True) -> UpstreamFailure:
    """Return the failure of a worker as a 503 that is worth another try in a moment."""
    message = f"the worker failed: {detail}; try again"
    error = RequestError(503, message, kind="server_error", code="worker_failed", retry_after=1)
    return UpstreamFailure(error, reached=reached)


def cannot_go_on(status: int) -> UpstreamFailure:
    """Return the failure of a worker that does not go on with what another one began; refusing that is no fault."""
    what = f"answered {status}" if status != 200 else "does not know how to"
    return UpstreamFailure(worker_failed(f"another one that was to go on {what}").error, blame=status >= 500)


def worker_busy(status: int, retry_after: int) -> UpstreamFailure:
    """Return the failure of a worker that refuses more work."""
    message = f"every worker of this model is busy (a worker answered {status}); try again later"
    error = RequestError(429, message, kind="rate_limit_error", code="workers_busy", retry_after=retry_after)
    return UpstreamFailure(error, blame=False)
