"""One try of a request at one worker, driven by the worker's connection and the clock.

state        what it waits for                          and then
reaching     a connection                               asked
asked        the head of the answer                     holding
holding      enough of the answer to be sure of it      relaying, done
relaying     the rest of it                             done
done         nothing

A connection that was kept and breaks at once, before the first byte of an answer, was closed while the request was on
its way: asked goes back to reaching, once, over a new one.
"""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from rbee_runtime.errors import LinkError, NotTakenError
from rbee_runtime.framing import Headers
from rbee_runtime.gateway import usage
from rbee_runtime.gateway.body import Body, renamed
from rbee_runtime.gateway.clockwork import NEVER
from rbee_runtime.gateway.downstream import Answer
from rbee_runtime.gateway.events import Events
from rbee_runtime.gateway.faults import guarded
from rbee_runtime.gateway.seam import Gate, Lease, Limits, UpstreamFailure, cannot_go_on, worker_busy, worker_failed
from rbee_runtime.gateway.transcript import Transcript, reader_of
from rbee_runtime.gateway.upstream import Origin, Pool, Upstream, origin_of

log = logging.getLogger(__name__)

PROGRESS_BYTES = 1024
"""An answer that is not streamed has to grow by so much within the limit for silence; a stream by an event."""

HIGHEST_STATUS = 599

RACE_SECONDS = 1.0
"""What breaks later broke over the request: sent again, it would be worked on twice, and by the same worker."""

_ANOTHER_WORKER = frozenset({502, 503, 504})
_ITS_FAULT = 500
_OUR_FAULT = frozenset({401, 403, 404, 405})
_NOT_TAKEN = NotTakenError.HEADER.encode()


class State(StrEnum):
    """Where a try is; see the table above."""

    REACHING = "reaching"
    ASKED = "asked"
    HOLDING = "holding"
    RELAYING = "relaying"
    DONE = "done"


_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.REACHING: frozenset({_S.ASKED, _S.DONE}),
    _S.ASKED: frozenset({_S.HOLDING, _S.REACHING, _S.DONE}),
    _S.HOLDING: frozenset({_S.RELAYING, _S.DONE}),
    _S.RELAYING: frozenset({_S.DONE}),
    _S.DONE: frozenset(),
}


class Request(msgspec.Struct, frozen=True):
    """What goes to a worker; `model` is the fleet's name for what the body may call otherwise.

    `transcript` is the text so far of a stream that another worker may go on with.
    """

    path: str
    model: str
    body: Body
    accept: str
    request_id: str
    transcript: Transcript | None = None

    @property
    def goes_on(self) -> bool:
        """Say whether it is for the rest of an answer of which some is out."""
        return self.transcript is not None and self.transcript.is_joined

    def to(self, origin: Origin, lease: Lease, headers: bytes) -> bytes:
        """Return the whole request for one worker, or raise RequestError 400."""
        door = lease.door
        name = self.model if door is None else door.model
        content = self.body.raw if door is None and name == self.body.model else renamed(self.body, name)
        asked = usage.ASKED if self.transcript is None else usage.ASKED_EACH
        own = asked if door is None else b""
        if door is not None and door.authorization:
            own += f"authorization: {door.authorization}\r\n".encode()
        head = (
            f"POST {origin.base}{self.path} HTTP/1.1\r\nhost: {origin.authority}\r\n"
            f"content-type: application/json\r\naccept: {self.accept or '*/*'}\r\naccept-encoding: identity\r\n"
            f"x-request-id: {self.request_id}\r\ncontent-length: {len(content)}\r\n"
        )
        return b"".join((head.encode("latin-1"), headers, own, b"\r\n", content))


@dataclass(frozen=True)
class Means:
    """What every try of a relay works with; `pool` has the connections to the fleet's own workers."""

    gate: Gate
    pool: Pool
    limits: Limits
    loop: asyncio.AbstractEventLoop


class Owner(Protocol):
    """Whose try it is."""

    def tried(self, failure: UpstreamFailure | None, tokens: usage.Tokens | None) -> None:
        """Note that the try is over: the answer is out (None), or why it is not."""
        ...

    def broken(self, error: Exception) -> None:
        """End the request: this of ours went wrong with it."""
        ...


class Attempt:
    """Carries one answer from a worker to a client."""

    def __init__(self, means: Means, lease: Lease, request: Request, answer: Answer, owner: Owner) -> None:
        self.lease = lease
        self._pool = lease.door.pool if lease.door is not None else means.pool
        self._request = request
        self._answer = answer
        self._limits = means.limits
        self._owner = owner
        self._loop = means.loop
        self.due = NEVER
        self._state = State.REACHING
        self._upstream: Upstream | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._asking = b""
        self._asked = 0.0
        self._status = 0
        self._headers: Headers = []
        self._kept: list[bytes] = []
        self._size = 0
        self._events: Events | None = None
        self._tokens: usage.Tokens | None = None
        self.stalled = False
        """Whether it is the client that lets wait."""

    @property
    def sound(self) -> bool:
        """Say whether the answer is not one by which a worker says that it failed itself."""
        return self._status != _ITS_FAULT

    def begin(self) -> None:
        """Ask the worker, over a connection that is there or a new one."""
        try:
            origin = origin_of(self.lease.url)
            self._asking = self._request.to(origin, self.lease, self._pool.headers)
        except (ValueError, UnicodeError) as error:
            self._fail(worker_failed(str(error), reached=False))
            return
        kept = self._pool.take(origin)
        if kept is not None:
            self._ask(kept)
        else:
            self._dial(origin)

    def broken(self, error: Exception) -> None:
        """End the request: this of ours went wrong with it."""
        self._owner.broken(error)

    def heard_room(self, *, room: bool) -> None:
        """Read on, or not before the client keeps up; silence is the client's until then."""
        if self._state is not State.RELAYING or self._upstream is None:
            return
        if room:
            self._upstream.resume()
            self._limit(self._limits.idle)
        else:
            self._upstream.pause()
            self._limit(self._limits.stall)
        self.stalled = not room

    def give_up(self) -> None:
        """End the try without another word to anybody."""
        self._end()

    def passed(self) -> None:
        """Fail: the worker, or the client, let wait for too long."""
        self._fail(worker_failed("it went silent"))

    @guarded
    def heard_head(self, status: int, headers: Headers) -> None:
        """Judge the head of an answer."""
        self._enter(State.HOLDING)
        # Nobody sends it over this try again, and it may be megabytes.
        self._asking = b""
        self._status, self._headers = status, headers
        failure = self._unfit(status, dict(headers))
        if failure is not None:
            self._fail(failure)
        elif status == 200 and self._request.body.stream:
            self._events = reader_of(self._request.transcript)

    def heard_data(self, data: bytes) -> None:
        """Pass on what came, or keep it while another worker could still step in."""
        events = self._events
        # Not `guarded`, which costs a call more for each chunk.
        try:
            goes_on = self._stream(events, data) if events is not None else self._part(data)
        except Exception as error:  # noqa: BLE001 - it is logged there
            self.broken(error)
            return
        if goes_on and not self.stalled and self._state is not State.DONE:
            self._limit(self._limits.idle)

    @guarded
    def heard_end(self) -> None:
        """End the answer, if it is one."""
        self._upstream = None
        if self._events is not None:
            self._end_stream(self._events)
        elif self._state is State.RELAYING:
            self._answer.finish()
            self._done()
        else:
            self._end_whole()

    @guarded
    def heard_loss(self, why: str, *, silent: bool) -> None:
        """Try again what a closed connection never carried; take what was whole; else it has failed."""
        lost, self._upstream = self._upstream, None
        early = self._loop.time() - self._asked < RACE_SECONDS
        if silent and early and lost is not None and lost.used and self._state is State.ASKED:
            self._enter(State.REACHING)
            self._dial(lost.origin)
        elif self._events is not None and self._events.done:
            # After the last event there is nothing left to lose.
            self._end_stream(self._events)
        else:
            self._fail(worker_failed(why))

    def _dial(self, origin: Origin) -> None:
        self._dialling = self._loop.create_task(self._reach(origin))

    async def _reach(self, origin: Origin) -> None:
        try:
            connection = await self._pool.dial(origin)
        except (OSError, ssl.SSLError, LinkError, TimeoutError) as error:
            self._fail(worker_failed(str(error).rstrip(".") or "it does not take the connection", reached=False))
        except Exception:
            # A name that the resolver cannot read, among others; nobody else would end the try.
            log.exception("a worker could not be reached in a way that nobody foresaw")
            self._fail(worker_failed("it cannot be reached", reached=False))
        else:
            self._ask(connection)

    @guarded
    def _ask(self, connection: Upstream) -> None:
        self._enter(State.ASKED)
        self._upstream = connection
        self._asked = self._loop.time()
        self._limit(self._limits.first_byte)
        connection.ask(self._asking, self)

    def _unfit(self, status: int, headers: dict[bytes, bytes]) -> UpstreamFailure | None:
        """Return why an answer of that status is no answer for a client, None if it is one."""
        if status > HIGHEST_STATUS:
            return worker_failed(f"it answered {status}, which is no status of HTTP")
        if self.lease.door is not None and (status in _OUR_FAULT or 300 <= status < 400):
            # What a server holds against us, not against its client: a wrong key, name or place.
            return worker_failed(f"it answered {status}, so its url, key or models in the inventory do not fit it")
        if status == 429:
            return worker_busy(status, _retry_after(headers.get(b"retry-after", b"")))
        if status in _ANOTHER_WORKER:
            return worker_failed(f"it answered {status}", reached=_NOT_TAKEN not in headers)
        if status == 200 and self._request.body.stream:
            return self._no_stream(headers)
        return cannot_go_on(status) if self._request.goes_on else None

    def _no_stream(self, headers: dict[bytes, bytes]) -> UpstreamFailure | None:
        if not headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            return worker_failed("it answered something that is not an event stream")
        transcript = self._request.transcript
        needs_word = transcript is not None and transcript.needs_word
        return cannot_go_on(200) if needs_word and usage.GOES_ON not in headers else None

    def _stream(self, events: Events, data: bytes) -> bool:
        """Pass on whole events; say whether there was one."""
        ready = events.feed(data)
        self._answer.torn = events.torn
        if not ready:
            return False
        if not events.plausible:
            self._fail(worker_failed("it answered something that is not an event stream"))
            return True
        ready, tokens = usage.told(ready)
        self._tokens = tokens or self._tokens
        if not ready:
            # An empty chunk would end the answer.
            return True
        if self._state is State.RELAYING:
            self._answer.go_on(ready)
        else:
            self._relay(ready)
        return True

    def _part(self, data: bytes) -> bool:
        """Keep or pass on a part of another answer; say whether it goes on at more than a trickle."""
        before, self._size = self._size, self._size + len(data)
        if self._state is State.RELAYING:
            self._answer.go_on(data)
        else:
            self._kept.append(data)
            if self._size > self._limits.whole_bytes:
                kept, self._kept = self._kept, []
                self._relay(b"".join(kept))
        return not before or self._size // PROGRESS_BYTES > before // PROGRESS_BYTES

    def _relay(self, data: bytes) -> None:
        self._enter(State.RELAYING)
        # In the body of an answer that is no stream an event would be hidden, too.
        self._answer.torn = self._answer.torn or self._events is None
        self._answer.first = self._answer.first or self._loop.time()
        self._answer.begin(self._status, self._headers, data)
        if not self._answer.room:
            # Full already of the answer before, and nobody says so again.
            self.heard_room(room=False)

    def _end_stream(self, events: Events) -> None:
        if not events.done:
            self._fail(worker_failed(events.early))
            return
        if self._tokens is None:
            self._tokens = usage.at_the_end(events.last)
        if self._state is State.RELAYING:
            self._answer.finish(events.rest())
        else:
            self._answer.whole(self._status, self._headers, events.rest())
        self._done()

    def _end_whole(self) -> None:
        data = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        sound, self._tokens = usage.of_answer(data)
        if self._status >= 400:
            # A refusal costs its client nothing, whatever was expected of an answer.
            self._tokens = (0, 0)
        if self._status == 200 and not sound:
            self._fail(worker_failed("it answered something that is not JSON"))
            return
        self._answer.whole(self._status, self._headers, data)
        self._done()

    def _limit(self, seconds: float) -> None:
        self.due = self._loop.time() + seconds

    def _fail(self, failure: UpstreamFailure) -> None:
        if self._state is not State.DONE:
            self._end()
            self._owner.tried(failure, None)

    def _done(self) -> None:
        self._end()
        self._owner.tried(None, self._tokens)

    def _end(self) -> None:
        if self._state is State.DONE:
            return
        self._enter(State.DONE)
        self.due = NEVER
        if self._upstream is not None:
            self._upstream.drop()
            self._upstream = None
        if self._dialling is not None and self._dialling is not asyncio.current_task(self._loop):
            self._dialling.cancel()

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self._state]:
            raise AssertionError(f"a try cannot go from {self._state} to {state}")
        self._state = state


def _retry_after(value: bytes) -> int:
    text = value.decode("latin-1")
    return min(max(int(text), 1), 60) if text.isdecimal() else 1
