"""Routes that answer with text, streamed or whole."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway import usage
from rbee_runtime.worker.engines import Delta
from rbee_runtime.worker.lifecycle import Worker
from rbee_runtime.worker.surface.exchange import Exchange, broken, demand_model
from rbee_runtime.worker.surface.reply import Refused, Reply
from rbee_runtime.worker.surface.shapes import Call, Choice, Item


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
        try:
            async with aclosing(self._timed(call.ask(self.worker.engine))) as deltas:
                await (self._stream if call.stream else self._whole)(reply, call, deltas)
        except RequestError as error:
            # An engine does not know by which route a prompt came.
            error.param = self._prompt if error.param == "messages" else error.param
            raise

    async def _timed(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        """Pass an answer on and note how long it let wait."""
        clock, metrics = asyncio.get_running_loop().time, self.worker.metrics
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
                self.worker.metrics.used(delta.usage)
                told = [usage.telling((delta.usage.prompt, delta.usage.completion))] if reply.counted else []
                await reply.event(*events, *told, *call.shape.closing(delta.usage, told=call.include_usage))
                break
            if events:
                await reply.event(*events)
        else:
            raise broken()
        await reply.end()

    async def _whole(self, reply: Reply, call: Call, deltas: AsyncIterator[Delta]) -> None:
        choices = [Choice() for _ in range(call.choices)]
        async for delta in deltas:
            if delta.raw:
                await reply.raw(delta.raw)
                return
            choices[delta.choice].add(delta)
            if delta.usage is not None:
                self.worker.metrics.used(delta.usage)
                await reply.json(call.shape.whole(choices, delta.usage))
                return
        raise broken()


def _events(call: Call, delta: Delta, opened: set[int]) -> Iterator[Item]:
    # Nothing before the first token: until then the queen may still try another worker.
    if delta.choice not in opened:
        opened.add(delta.choice)
        if (opening := call.shape.opening(delta.choice)) is not None:
            yield opening
    if delta.text or delta.logprobs or delta.calls or delta.thought:
        yield call.shape.piece(delta)
    if delta.finish is not None:
        yield call.shape.ending(delta)
