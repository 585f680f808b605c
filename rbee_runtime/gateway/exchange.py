"""One relayed request from its head to the last byte of its answer; no task, unless it waits in line.

state        what it waits for                                  and then
receiving    the body of the request                            seeking
seeking      a slot of a worker, in line                        trying
trying       that worker's answer                               done, or seeking for another worker
done         nothing

Another worker is looked for while nothing of the answer is out, or where what is out can be gone on with
(transcript.py). In every state the client may go, a limit may pass, or the gateway may end: then it is done.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum

import msgspec

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway import usage
from rbee_runtime.gateway.attempt import Attempt, Means, Request
from rbee_runtime.gateway.body import Body, parse
from rbee_runtime.gateway.clockwork import NEVER
from rbee_runtime.gateway.continuation import CONTINUABLE, transcript_of
from rbee_runtime.gateway.downstream import Answer
from rbee_runtime.gateway.faults import guarded, unforeseen
from rbee_runtime.gateway.seam import Ask, Lease, Limits, UpstreamFailure
from rbee_runtime.gateway.transcript import Transcript
from rbee_runtime.http_connection import say_unforeseen


class State(StrEnum):
    """Where a request is; see the table above."""

    RECEIVING = "receiving"
    SEEKING = "seeking"
    TRYING = "trying"
    DONE = "done"


_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.RECEIVING: frozenset({_S.SEEKING, _S.DONE}),
    _S.SEEKING: frozenset({_S.TRYING, _S.DONE}),
    _S.TRYING: frozenset({_S.SEEKING, _S.DONE}),
    _S.DONE: frozenset(),
}


GONE, CUT = "client_gone", "cut_off"
"""Codes of what ends a request besides errors: its client left or takes no bytes, or its connection was cut off."""


class Outcome(msgspec.Struct):
    """What became of one request, for its log line, its account and the figures.

    `code` says why it did not end well, "" if it did; `refused` that its client got an error and nothing else. `first`
    is seconds until the first byte of an answer, `waited` those in line; `continued` is how often another worker went
    on with its stream.
    """

    path: str = ""
    key: str = ""
    request_id: str = ""
    model: str = ""
    worker: str = ""
    attempts: int = 0
    status: int = 0
    sent: int = 0
    seconds: float = 0.0
    tokens: usage.Tokens | None = None
    problem: str = ""
    code: str = ""
    refused: bool = False
    stream: bool = False
    first: float = 0.0
    waited: float = 0.0
    continued: int = 0


class Exchange:
    """Answers one request."""

    def __init__(
        self,
        means: Means,
        answer: Answer,
        outcome: Outcome,
        *,
        accept: bytes,
        pin: str,
        refusal: RequestError | None,
        over: Callable[["Exchange"], None],
    ) -> None:
        self.outcome = outcome
        self._means = means
        self._answer = answer
        self._accept = accept
        self._pin = pin
        self._refusal = refusal
        self._over = over
        self._loop = means.loop
        self._began = self._loop.time()
        self._state = State.RECEIVING
        self._received: bytes | bytearray = b""
        self._limit = NEVER
        self._request: Request | None = None
        self._tried: frozenset[str] = frozenset()
        self._revision = ""
        self._last: UpstreamFailure | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._since = NEVER
        self._attempt: Attempt | None = None

    @guarded
    def heard_head(self) -> None:
        """Begin, or refuse what the head says already."""
        if self._refusal is not None:
            self._fail(self._refusal)
        else:
            self._limit = self._began + self._means.limits.body_seconds

    @guarded
    def heard_part(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._state is not State.RECEIVING:
            return
        if not self._received:
            self._received = data
        else:
            # A list of parts would cost many times the bytes of a body in tiny chunks.
            if isinstance(self._received, bytes):
                self._received = bytearray(self._received)
            self._received += data
        if len(self._received) > self._means.limits.body_bytes:
            self._fail(too_large(self._means.limits))

    @guarded
    def heard_whole(self) -> None:
        """Look for a worker."""
        if self._state is not State.RECEIVING:
            return
        self._limit = NEVER
        try:
            body = parse(bytes(self._received), streams=self._answer.streams)
        except RequestError as error:
            self._fail(error)
            return
        self._received = b""
        self.outcome.model = body.model
        self._answer.stream = body.stream
        accept = self._accept.decode("latin-1")
        model = self._means.gate.resolve(body.model)
        transcript = None
        if body.stream:
            self._limit = self._loop.time() + self._means.limits.pings
            transcript = self._transcript(body, model)
        self._request = request = Request(self.outcome.path, model, body, accept, self.outcome.request_id, transcript)
        self._seek(request)

    def _transcript(self, body: Body, model: str) -> Transcript | None:
        """Return what keeps the text of a stream, None of one that is not to be continued or only by one worker."""
        if self._pin or not self._means.gate.continues(model):
            return None
        found = transcript_of(self.outcome.path, body)
        self._answer.marks = CONTINUABLE if found is not None else []
        return found

    @property
    def due(self) -> float:
        """Return when the next limit passes, in the loop's time."""
        return self._limit if self._attempt is None else min(self._limit, self._attempt.due)

    @guarded
    def passed(self) -> None:
        """Act on the limit that has passed."""
        if self._attempt is not None and self._attempt.due <= self._limit:
            self._attempt.passed()
        elif self._state is State.RECEIVING:
            self._too_slow()
        else:
            self._ping()

    def heard_gone(self) -> None:
        """Stop: nobody listens."""
        if self._state is not State.DONE:
            self._gone()
            self._end()

    def heard_room(self, *, room: bool) -> None:
        """Read on from the worker, or not before the client keeps up."""
        if self._attempt is not None:
            self._attempt.heard_room(room=room)

    def give_up(self, why: str) -> bool:
        """Stop without another word; say whether nothing went out yet."""
        self.outcome.problem, self.outcome.code = why, CUT
        self._end()
        return not self._answer.status

    def cut(self) -> None:
        """End it now with an error that its client understands."""
        self._fail(restarting())

    def broken(self, error: Exception) -> None:
        """End the request: this of ours went wrong with it."""
        say_unforeseen(error)
        try:
            self._fail(unforeseen())
        finally:
            self._end()

    @guarded
    def tried(self, failure: UpstreamFailure | None, tokens: usage.Tokens | None) -> None:
        """Be done, or try again elsewhere what has failed before the first byte of an answer."""
        attempt = self._attempt
        if attempt is None:
            return
        lease = attempt.lease
        if failure is None:
            lease.settle(answered=attempt.sound)
            if tokens is not None:
                self.outcome.tokens = tokens
                lease.spent(*tokens)
            self._end()
            return
        if not attempt.stalled:
            lease.settle(answered=not failure.blame, reached=failure.reached)
        if not failure.blame:
            lease.spent(0, 0)
        self._attempt = None
        lease.release()
        if attempt.stalled:
            self._gone()
            self._answer.abandon()
            self._end()
        elif self._answer.committed and not self._resumes(lease):
            self._fail(failure.error)
        else:
            self._again(lease, failure)

    def _resumes(self, lease: Lease) -> bool:
        """Have the next worker go on with what is out of an answer, if that can be; say whether it can."""
        request = self._request
        if request is None or request.transcript is None or self._answer.torn or not lease.revision:
            return False
        body = request.transcript.resumed()
        if body is None:
            return False
        self._request = msgspec.structs.replace(request, body=body)
        self._revision = lease.revision
        self._answer.committed = False
        self._limit = self._loop.time() + self._means.limits.pings
        return True

    def _again(self, lease: Lease, failure: UpstreamFailure) -> None:
        if self.outcome.attempts > self._means.limits.retries or not self._means.gate.may_retry():
            self._fail(failure.error)
            return
        self._last = failure
        if failure.reached:
            self._tried |= {lease.worker}
        if self._request is not None:
            self._seek(self._request)

    def _seek(self, request: Request) -> None:
        self._enter(State.SEEKING)
        ask = _ask(request, self.outcome.key, self._tried, self._pin, self._revision)
        try:
            lease = self._means.gate.at_once(ask)
        except RequestError as error:
            self._refused(error)
            return
        if lease is None:
            self._since = self._loop.time()
            self._waiting = self._loop.create_task(self._wait(request, ask))
        else:
            self._try(request, lease)

    async def _wait(self, request: Request, ask: Ask) -> None:
        try:
            lease = await self._means.gate.lease(ask)
        except RequestError as error:
            self._waiting = None
            self._refused(error)
            return
        except Exception as error:  # noqa: BLE001 - it is logged there
            self._waiting = None
            self.broken(error)
            return
        self._waiting = None
        self._waits_no_more()
        self._try(request, lease)

    @guarded
    def _try(self, request: Request, lease: Lease) -> None:
        self._enter(State.TRYING)
        self.outcome.worker = lease.worker
        self.outcome.attempts += 1
        if lease.door is not None and request.transcript is not None:
            # What runs there nobody knows.
            request = self._request = msgspec.structs.replace(request, transcript=None)
            self._answer.marks = []
        self._attempt = Attempt(self._means, lease, request, self._answer, self)
        try:
            self._attempt.begin()
        except RequestError as error:
            lease.release()
            self._fail(error)

    def _refused(self, error: RequestError) -> None:
        """Tell what policy says, unless a worker had the request: then what became of it there."""
        self._fail(self._last.error if self._last is not None and self._last.reached else error)

    def _ping(self) -> None:
        self._limit = NEVER
        if not self._answer.committed:
            self._answer.ping()
            self._limit = self._loop.time() + self._means.limits.pings

    def _too_slow(self) -> None:
        seconds = self._means.limits.body_seconds
        self._fail(RequestError(408, f"the request body did not arrive within {seconds:g} s", code="request_timeout"))

    def _fail(self, error: RequestError) -> None:
        if self._state is State.DONE:
            return
        self.outcome.problem, self.outcome.code = str(error), error.code or error.kind
        self.outcome.refused = not self._answer.committed
        self._answer.fail(error)
        self._end()

    def _gone(self) -> None:
        self.outcome.problem, self.outcome.code = "client gone", GONE

    def _end(self) -> None:
        if self._state is State.DONE:
            return
        self._enter(State.DONE)
        self._limit = NEVER
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.give_up()
            attempt.lease.release()
        self.outcome.status = self._answer.status
        self.outcome.sent = self._answer.sent
        self.outcome.stream = self._answer.stream
        if self._request is not None and self._request.transcript is not None:
            self.outcome.continued = self._request.transcript.joints
        self._waits_no_more()
        now = self._loop.time()
        self.outcome.seconds = now - self._began
        self.outcome.first = (self._answer.first or now) - self._began
        self._over(self)

    def _waits_no_more(self) -> None:
        if self._since != NEVER:
            self.outcome.waited += self._loop.time() - self._since
            self._since = NEVER

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self._state]:
            raise AssertionError(f"a request cannot go from {self._state} to {state}")
        self._state = state


def _ask(request: Request, key: str, tried: frozenset[str], pin: str, revision: str) -> Ask:
    body, model = request.body, request.model
    return Ask(key, model, tried, len(body.raw), body.limit, body.model, pin, body.opening, body.floor, revision)


def too_large(limits: Limits) -> RequestError:
    """Return the answer to a body beyond the limit."""
    return RequestError(413, f"the request body is larger than {limits.body_bytes} bytes", code="request_too_large")


def restarting() -> RequestError:
    """Return what becomes of an answer that a restart does not wait for."""
    message = "the queen restarts and could not wait for the end of this answer; ask again"
    return RequestError(503, message, kind="server_error", code="queen_restarting", retry_after=1)
