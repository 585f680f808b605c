"""`POST /v1/chat/completions`: one request from body to last byte, ended early when its client goes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines import Delta
from rbee_runtime.worker.lifecycle import Worker
from rbee_runtime.worker.surface import openai
from rbee_runtime.worker.surface.body import disconnected, receive_body
from rbee_runtime.worker.surface.reply import ClientGoneError, Reply

log = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"


class ChatRoute:
    """ASGI app of the route; plain ASGI, because it must see the client leave while it answers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

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
                call = openai.parse(await receive_body(scope, receive))
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

    async def _answer(self, reply: Reply, call: openai.ChatCall) -> None:
        try:
            async with aclosing(self._worker.engine.chat(call.request)) as deltas:
                await (self._stream if call.stream else self._whole)(reply, call, deltas)
        except (RequestError, ClientGoneError):
            raise
        except EngineCrashedError as error:
            self._worker.fail(error)
            raise _broken() from error
        except Exception as error:
            log.exception("a request failed in a way that nobody foresaw")
            raise _broken() from error

    async def _stream(self, reply: Reply, call: openai.ChatCall, deltas: AsyncIterator[Delta]) -> None:
        answer = openai.Answer(call.model)
        async for delta in deltas:
            if delta.raw:
                await reply.event(delta.raw)
                break
            if not reply.started:
                # Not before the first token: until then the queen may still try another worker.
                await reply.event(answer.chunk({"role": "assistant", "content": ""}))
            if delta.text:
                await reply.event(answer.chunk({"content": delta.text}))
            if delta.finish is not None and delta.usage is not None:
                self._worker.metrics.used(delta.usage)
                usage = [answer.usage_chunk(delta.usage)] if call.include_usage else []
                await reply.event(answer.chunk({}, delta.finish), *usage, _DONE)
                break
        else:
            raise _broken()
        await reply.end()

    async def _whole(self, reply: Reply, call: openai.ChatCall, deltas: AsyncIterator[Delta]) -> None:
        pieces: list[str] = []
        async for delta in deltas:
            if delta.raw:
                await reply.raw(delta.raw)
                return
            pieces.append(delta.text)
            if delta.finish is not None and delta.usage is not None:
                self._worker.metrics.used(delta.usage)
                await reply.json(openai.Answer(call.model).whole("".join(pieces), delta.finish, delta.usage))
                return
        raise _broken()


def _broken() -> RequestError:
    message = "the engine of this model failed while it answered"
    return RequestError(500, message, kind="server_error", code="engine_failed")
