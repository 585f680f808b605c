"""One request from body to last byte, ended early when its client goes or the worker must stop."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive, Scope, Send

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.gateway import usage
from rbee_runtime.worker.lifecycle import Worker
from rbee_runtime.worker.surface.body import disconnected, receive_body
from rbee_runtime.worker.surface.reply import ClientGoneError, Refused, Reply

log = logging.getLogger(__name__)


class Exchange(ABC):
    """ASGI app of a route that asks the engine; plain ASGI, because it must see the client leave."""

    refused: Refused = staticmethod(RequestError.body)
    """The body of an error."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    @abstractmethod
    async def answer(self, raw: bytes, reply: Reply) -> None:
        """Answer the request in a body; whatever error it raises is told to the client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        wanted = dict(scope["headers"]).get(usage.HEADER)
        reply = Reply(send, self.refused, counted=wanted is not None, traced=wanted == usage.EACH)
        try:
            outcome = await self._outcome(scope, receive, reply)
        except ClientGoneError:
            outcome = "client_gone"
        self.worker.metrics.finished(outcome)

    async def _outcome(self, scope: Scope, receive: Receive, reply: Reply) -> str:
        try:
            self.worker.demand_ready()
            with self.worker.flight():
                raw = await receive_body(scope, receive)
                await self._unless_ended(receive, reply, self._answered(raw, reply))
        except RequestError as refusal:
            await reply.fail(refusal)
            return str(refusal.status)
        return "ok"

    async def _unless_ended(self, receive: Receive, reply: Reply, answer: Coroutine[Any, Any, None]) -> None:
        """Run `answer` to its end, or end it when the client goes or the worker must stop."""
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(disconnected(receive))
        cut = asyncio.ensure_future(self.worker.cut.wait())
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

    async def _answered(self, raw: bytes, reply: Reply) -> None:
        try:
            await self.answer(raw, reply)
        except (RequestError, ClientGoneError):
            raise
        except EngineCrashedError as error:
            self.worker.fail(error)
            raise broken() from error
        except Exception as error:
            log.exception("a request failed in a way that nobody foresaw")
            raise broken() from error


def broken() -> RequestError:
    """Return what a client is told of an engine that failed; why is in the log."""
    message = "the engine of this model failed while it answered"
    return RequestError(500, message, kind="server_error", code="engine_failed")


def demand_model(worker: Worker, name: str) -> None:
    """Raise RequestError (404) unless it is this worker's model.

    The port may have been another worker's a moment ago: a stale route must not get another model's answer.
    """
    if name != worker.spec.model:
        message = f"this worker serves {worker.spec.model!r}, not {name!r}"
        raise RequestError(404, message, code="model_not_found", param="model")
