"""Routes that answer with text, streamed or whole."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway import usage
from rbee_runtime.worker.engines import Delta
from rbee_runtime.worker.lifecycle import Worker
from rbee_runtime.worker.metrics import Watch
from rbee_runtime.worker.surface.exchange import Exchange, broken, demand_model
from rbee_runtime.worker.surface.reply import Refused, Reply
from rbee_runtime.worker.surface.shapes import Call, Choice, Item, Shape


class AnswerRoute(Exchange):
    """A route whose bodies `parse` reads; `prompt` is its field for what an answer is given to."""

    def __init__(
        self,
        worker: Worker,
        parse: Callable[[bytes], Call],
        refused: Refused = RequestError.body,
        *,
        prompt: str = "messages",
    ) -> None:
        super().__init__(worker)
        self._parse = parse
        self.refused = refused
        self._prompt = prompt

    async def answer(self, raw: bytes, reply: Reply) -> None:
        """Give the answer in the form that was asked for."""
        call = self._parse(raw)
        demand_model(self.worker, call.model)
        reply.goes_on = call.continues
        watch = self.worker.metrics.watch(asyncio.get_running_loop().time)
        try:
            async with aclosing(call.ask(self.worker.engine)) as deltas:
                await (self._stream if call.stream else self._whole)(reply, call, deltas, watch)
        except RequestError as error:
            # An engine does not know by which route a prompt came.
            error.param = self._prompt if error.param == "messages" else error.param
            raise
        finally:
            watch.over()

    async def _stream(self, reply: Reply, call: Call, deltas: AsyncIterator[Delta], watch: Watch) -> None:
        opened: set[int] = set()
        async for delta in deltas:
            watch.piece()
            if delta.raw:
                await reply.event(delta.raw)
                break
            events = _events(call.shape, delta, opened)
            if delta.usage is not None:
                self.worker.metrics.used(delta.usage)
                told = [usage.telling((delta.usage.prompt, delta.usage.completion))] if reply.counted else []
                await reply.event(*events, *told, *call.shape.closing(delta.usage, told=call.include_usage))
                break
            if events:
                traced = [usage.producing(delta.produced)] if reply.traced and delta.produced else []
                await reply.event(*events, *traced)
        else:
            raise broken()
        await reply.end()

    async def _whole(self, reply: Reply, call: Call, deltas: AsyncIterator[Delta], watch: Watch) -> None:
        choices = [Choice() for _ in range(call.choices)]
        async for delta in deltas:
            watch.piece()
            if delta.raw:
                await reply.raw(delta.raw)
                return
            choices[delta.choice].add(delta)
            if delta.usage is not None:
                self.worker.metrics.used(delta.usage)
                await reply.json(call.shape.whole(choices, delta.usage))
                return
        raise broken()


def _events(shape: Shape, delta: Delta, opened: set[int]) -> list[Item]:
    events: list[Item] = []
    # Nothing before the first token: until then the queen may still try another worker.
    if delta.choice not in opened:
        opened.add(delta.choice)
        if (opening := shape.opening(delta.choice)) is not None:
            events.append(opening)
    if delta.text or delta.logprobs or delta.calls or delta.thought:
        events.append(shape.piece(delta))
    if delta.finish is not None:
        events.append(shape.ending(delta))
    return events
