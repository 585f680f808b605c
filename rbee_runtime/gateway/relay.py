"""Relay one request to a worker and its answer back, byte by byte as it comes (pure ASGI over httpx)."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from rbee_runtime.errors import LinkError, NotTakenError, RequestError
from rbee_runtime.gateway.body import ChatBody, ClientGoneError, header, parse_chat, receive_body, renamed
from rbee_runtime.gateway.downstream import Downstream, end_to_end
from rbee_runtime.gateway.events import Events
from rbee_runtime.gateway.seam import Ask, Gate, Lease, Limits, UpstreamFailure, worker_busy, worker_failed
from rbee_runtime.protocol import decode

_ANOTHER_WORKER = frozenset({502, 503, 504})
_OUR_FAULT = frozenset({401, 403, 404, 405})
POOL = httpx.Limits(max_connections=None, max_keepalive_connections=128, keepalive_expiry=60.0)
"""Idle connections leave the pool before a worker's server closes them (75 s), so that a reused one is alive."""


def pool_timeout(limits: Limits) -> httpx.Timeout:
    """Return the client's own limits; first-byte and idle limits are the exchange's."""
    return httpx.Timeout(None, connect=limits.connect)


@dataclass
class Outcome:
    """What became of one request, for its log line."""

    model: str = ""
    worker: str = ""
    attempts: int = 0
    status: int = 0
    sent: int = 0
    problem: str = ""


class Relay:
    """Carries requests between clients and workers; one per process."""

    def __init__(self, gate: Gate, client: httpx.AsyncClient, *, limits: Limits | None = None) -> None:
        self._gate = gate
        self._client = client
        self._limits = limits or Limits()
        self._open: set[Exchange] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open(self) -> int:
        """Return how many exchanges are under way."""
        return len(self._open)

    async def wait_idle(self) -> None:
        """Return once no exchange is under way."""
        await self._idle.wait()

    def cut(self) -> None:
        """End every exchange now, each with an error its client understands."""
        for exchange in tuple(self._open):
            exchange.cut()

    async def serve(self, scope: Scope, receive: Receive, send: Send, *, key: str, request_id: str) -> Outcome:
        """Answer one chat request; returns when its last byte is out or its client is gone."""
        exchange = Exchange(self._gate, self._client, self._limits, key=key, request_id=request_id)
        self._open.add(exchange)
        self._idle.clear()
        try:
            await exchange.run(scope, receive, send)
        finally:
            self._open.discard(exchange)
            if not self._open:
                self._idle.set()
        return exchange.outcome


class Exchange:
    """One request: its tries, its pings and its end."""

    def __init__(self, gate: Gate, client: httpx.AsyncClient, limits: Limits, *, key: str, request_id: str) -> None:
        self.outcome = Outcome()
        self._gate = gate
        self._client = client
        self._limits = limits
        self._key = key
        self._request_id = request_id
        self._work: asyncio.Task[None] | None = None
        self._cut = False
        self._sending = False

    def cut(self) -> None:
        """End it now; the client gets an error."""
        self._cut = True
        if self._work is not None:
            self._work.cancel()

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, then relay it until it is answered or nobody listens."""
        down = Downstream(send, stream=False)
        try:
            body = parse_chat(await receive_body(scope, receive, self._limits))
            self.outcome.model = body.model
            down = Downstream(send, stream=body.stream)
            await self._relay(body, header(scope, b"accept"), scope["path"], receive, down)
        except RequestError as error:
            self.outcome.problem = str(error)
            await down.fail(error)
        except ClientGoneError:
            self.outcome.problem = "client gone"
        self.outcome.status = down.status
        self.outcome.sent = down.sent

    async def _relay(self, body: ChatBody, accept: str, path: str, receive: Receive, down: Downstream) -> None:
        work = self._work = asyncio.create_task(self._tries(body, accept, path, down))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            if self._cut:
                work.cancel()
            await self._watch(work, gone, down, pings=body.stream)
        finally:
            await _end(gone)
            await _end(work)
        if work.cancelled():
            raise _restarting() if self._cut else ClientGoneError
        work.result()

    async def _watch(
        self, work: asyncio.Task[None], gone: asyncio.Task[None], down: Downstream, *, pings: bool
    ) -> None:
        while True:
            wait = self._limits.pings if pings and not down.committed else None
            done, _ = await asyncio.wait({work, gone}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            await down.ping()

    async def _tries(self, body: ChatBody, accept: str, path: str, down: Downstream) -> None:
        tried: frozenset[str] = frozenset()
        last: UpstreamFailure | None = None
        for _ in range(self._limits.retries + 1):
            if last is not None and not self._gate.may_retry():
                break
            lease = await self._lease(Ask(self._key, body.model, tried), last)
            last = await self._try(lease, body, accept, path, down)
            if last is None:
                return
            if down.committed:
                break
            if last.reached:
                tried |= {lease.worker}
        raise last.error if last is not None else RequestError(503, "no worker answered", retry_after=1)

    async def _lease(self, ask: Ask, last: UpstreamFailure | None) -> Lease:
        try:
            lease = await self._gate.lease(ask)
        except RequestError:
            if last is None or not last.reached:
                raise
            raise last.error from None
        self.outcome.worker = lease.worker
        self.outcome.attempts += 1
        return lease

    async def _try(
        self, lease: Lease, body: ChatBody, accept: str, path: str, down: Downstream
    ) -> UpstreamFailure | None:
        try:
            await self._exchange(lease, path, body, accept, down)
        except UpstreamFailure as failure:
            lease.settle(answered=not failure.blame, reached=failure.reached)
            return failure
        else:
            lease.settle(answered=True)
            return None
        finally:
            lease.release()

    def _request(self, lease: Lease, path: str, body: ChatBody, accept: str) -> tuple[httpx.AsyncClient, httpx.Request]:
        headers = {
            "content-type": "application/json",
            "accept": accept or "*/*",
            "accept-encoding": "identity",
            "x-request-id": self._request_id,
        }
        door = lease.door
        if door is None:
            return self._client, self._client.build_request("POST", lease.url + path, content=body.raw, headers=headers)
        if door.authorization:
            headers["authorization"] = door.authorization
        content = renamed(body, door.model)
        return door.client, door.client.build_request("POST", lease.url + path, content=content, headers=headers)

    async def _exchange(self, lease: Lease, path: str, body: ChatBody, accept: str, down: Downstream) -> None:
        client, request = self._request(lease, path, body, accept)
        try:
            async with asyncio.timeout(self._limits.first_byte) as watch:
                response = await client.send(request, stream=True)
                try:
                    if lease.door is not None:
                        _refuse_what_is_ours(response.status_code)
                    await self._answer(response, body, down, watch)
                finally:
                    await response.aclose()
        except TimeoutError:
            if self._sending:
                raise ClientGoneError from None
            raise worker_failed("it went silent") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, LinkError) as error:
            reached = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise worker_failed(str(error).rstrip(".") or type(error).__name__, reached=reached) from error

    async def _answer(self, response: httpx.Response, body: ChatBody, down: Downstream, watch: asyncio.Timeout) -> None:
        status = response.status_code
        if status == 429:
            raise worker_busy(status, _retry_after(response))
        if status in _ANOTHER_WORKER:
            raise worker_failed(f"it answered {status}", reached=NotTakenError.HEADER not in response.headers)
        if status == 200 and body.stream:
            await self._stream(response, down, watch)
        else:
            await self._whole(response, down, watch)

    async def _stream(self, response: httpx.Response, down: Downstream, watch: asyncio.Timeout) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise worker_failed("it answered something that is not an event stream")
        events = Events()
        headers = end_to_end(response.headers.raw)
        try:
            async for piece in response.aiter_raw():
                if ready := events.feed(piece):
                    await self._pass_on(down, events, headers, ready, watch)
        except httpx.HTTPError:
            # After the last event there is nothing left to lose.
            if not events.done:
                raise
        if not events.done:
            raise worker_failed("its stream ended early")
        await down.finish(events.rest())

    async def _pass_on(
        self, down: Downstream, events: Events, headers: list[tuple[bytes, bytes]], data: bytes, watch: asyncio.Timeout
    ) -> None:
        if not events.plausible:
            raise worker_failed("it answered something that is not an event stream")
        await self._send(down.go_on(data) if down.committed else down.answer(200, headers, data), watch)

    async def _whole(self, response: httpx.Response, down: Downstream, watch: asyncio.Timeout) -> None:
        """Keep an answer back until it is complete (or too long for that), so that another worker can still step in."""
        kept = b""
        headers = end_to_end(response.headers.raw)
        async for piece in response.aiter_raw():
            if down.committed:
                await self._send(down.go_on(piece), watch)
                continue
            kept += piece
            watch.reschedule(asyncio.get_running_loop().time() + self._limits.idle)
            if len(kept) > self._limits.whole_bytes:
                await self._send(down.answer(response.status_code, headers, kept), watch)
        if down.committed:
            await down.finish()
            return
        if response.status_code == 200 and not _is_json(kept):
            raise worker_failed("it answered something that is not JSON")
        await self._send(down.whole(response.status_code, headers, kept), watch)

    async def _send(self, step: Coroutine[Any, Any, None], watch: asyncio.Timeout) -> None:
        """Send to the client; silence is the client's until that is done, and the worker's from then on."""
        now = asyncio.get_running_loop().time
        self._sending = True
        watch.reschedule(now() + self._limits.stall)
        await step
        self._sending = False
        watch.reschedule(now() + self._limits.idle)


def _refuse_what_is_ours(status: int) -> None:
    """Raise UpstreamFailure for what a server holds against us, not against its client: a wrong key, name or place."""
    if status in _OUR_FAULT or 300 <= status < 400:
        raise worker_failed(f"it answered {status}, so its url, key or models in the inventory do not fit it")


def _is_json(data: bytes) -> bool:
    try:
        decode(data, object)
    except msgspec.DecodeError:
        return False
    return True


def _retry_after(response: httpx.Response) -> int:
    text = response.headers.get("retry-after", "")
    return min(max(int(text), 1), 60) if text.isdigit() else 1


def _restarting() -> RequestError:
    message = "the queen restarts and could not wait for the end of this answer; ask again"
    return RequestError(503, message, kind="server_error", code="queen_restarting", retry_after=1)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
