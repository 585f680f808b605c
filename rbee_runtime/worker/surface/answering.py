"""One request for text from body to last byte, ended early when its client goes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines import Delta
from rbee_runtime.worker.lifecycle import Worker
from rbee_runtime.worker.surface.body import disconnected, receive_body
from rbee_runtime.worker.surface.reply import ClientGoneError, Reply
from rbee_runtime.worker.surface.shapes import Call, Choice

log = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"


class AnswerRoute:
    """ASGI app of a route whose bodies `parse` reads; plain ASGI, because it must see the client leave."""

    def __init__(self, worker: Worker, parse: Callable[[bytes], Call]) -> None:
        self._worker = worker
        self._parse = parse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        reply = Reply(send)
        try:
            outcome = await self._outcome(scope, receive, reply)
        except ClientGoneError:
            outcome = "client_gone"
        self._worker.metrics.finished(outcome)

    async def _outcome(self, scope: Scope, receive: Receive, reply: Reply) -> str:
        try:
            self._worker.demand_ready()
            with self._worker.flight():
                call = self._parse(await receive_body(scope, receive))
                self._demand_model(call.model)
                await self._unless_ended(receive, reply, self._answer(reply, call))
        except RequestError as refusal:
            await reply.fail(refusal)
            return str(refusal.status)
        return "ok"

    def _demand_model(self, name: str) -> None:
        # The port may have been another worker's a moment ago: a stale route must not get another model's answer.
        if name != self._worker.spec.model:
            message = f"this worker serves {self._worker.spec.model!r}, not {name!r}"
            raise RequestError(404, message, code="model_not_found", param="model")

    async def _unless_ended(self, receive: Receive, reply: Reply, answer: Coroutine[Any, Any, None]) -> None:
        """Run `answer` to its end, or end it when the client goes or the worker must stop."""
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(disconnected(receive))
        cut = asyncio.ensure_future(self._worker.cut.wait())
        tasks: set[asyncio.Future[Any]] = {work, gone, cut}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reply.ended:
                await asyncio.wait({work})
                done.add(work)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if work in done:
            work.result()
        elif gone in done:
            raise ClientGoneError
        else:
            message = "this worker was stopped before the answer was complete"
            raise RequestError(503, message, kind="server_error", code="worker_stopped")

    async def _answer(self, reply: Reply, call: Call) -> None:
        try:
            async with aclosing(self._timed(call.ask(self._worker.engine))) as deltas:
                await (self._stream if call.stream else self._whole)(reply, call, deltas)
        except (RequestError, ClientGoneError):
            raise
        except EngineCrashedError as error:
            self._worker.fail(error)
            raise _broken() from error
        except Exception as error:
            log.exception("a request failed in a way that nobody foresaw")
            raise _broken() from error

    async def _timed(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        """Pass an answer on and note how long it let wait."""
        clock, metrics = asyncio.get_running_loop().time, self._worker.metrics
        begun = last = clock()
        taken = metrics.first
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    now = clock()
                    taken.add(now - last)
                    last, taken = now, metrics.between
                    yield delta
        finally:
            metrics.whole.add(clock() - begun)

    async def _stream(self, reply: Reply, call: Call, deltas: AsyncIterator[Delta]) -> None:
        opened: set[int] = set()
        async for delta in deltas:
            if delta.raw:
                await reply.event(delta.raw)
                break
            events = list(_events(call, delta, opened))
            if delta.usage is not None:
                self._worker.metrics.used(delta.usage)
                await reply.event(*events, *([call.shape.usage(delta.usage)] if call.include_usage else []), _DONE)
                break
            if events:
                await reply.event(*events)
        else:
            raise _broken()
        await reply.end()

    async def _whole(self, reply: Reply, call: Call, deltas: AsyncIterator[Delta]) -> None:
        choices = [Choice() for _ in range(call.choices)]
        async for delta in deltas:
            if delta.raw:
                await reply.raw(delta.raw)
                return
            choices[delta.choice].add(delta)
            if delta.usage is not None:
                self._worker.metrics.used(delta.usage)
                await reply.json(call.shape.whole(choices, delta.usage))
                return
        raise _broken()


def _events(call: Call, delta: Delta, opened: set[int]) -> Iterator[Mapping[str, Any]]:
    # Nothing before the first token: until then the queen may still try another worker.
    if delta.choice not in opened:
        opened.add(delta.choice)
        if (opening := call.shape.opening(delta.choice)) is not None:
            yield opening
    if delta.text or delta.logprobs or delta.calls:
        yield call.shape.piece(delta)
    if delta.finish is not None:
        yield call.shape.ending(delta)


def _broken() -> RequestError:
    message = "the engine of this model failed while it answered"
    return RequestError(500, message, kind="server_error", code="engine_failed")
