"""An engine without a model: scripted speed, scripted accidents, served by the real worker front.

Source `fake:` or `fake:key=value,…` with the keys of `FakeScript`. Accidents (`fail`):

crash_at_start   the process ends with status 1 while it loads
bad_model        the load is refused as a damaged model (exit status 65)
oom              out-of-memory text on stderr while it loads, exit status 71
hang             requests are taken and never answered
hang_after_N     N tokens, then silence
garbage          bytes that are neither SSE nor JSON instead of an answer
crash_after_N    N tokens, then the process is gone without a word
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from rbee_runtime.errors import EngineCrashedError, EngineLoadError, RequestError
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.states import ExitReason
from rbee_runtime.testing.fake_script import FakeScript, parse_options, read_script
from rbee_runtime.worker.engines import (
    ChatRequest,
    Delta,
    Finish,
    Gauges,
    Generation,
    Picture,
    Progress,
    TextRequest,
    Usage,
)
from rbee_runtime.worker.engines.vectors import Embeddings, EmbedRequest, Ranking, RankRequest

__all__ = ["GARBAGE", "FakeEngine", "FakeScript", "create", "parse_options", "read_script"]

_TEMPLATE_TOKENS = 3
GARBAGE = b"\x00\xff<html>502</html>\n\n{]"


class FakeEngine:
    """Plays one script."""

    def __init__(self, script: FakeScript, *, slots: int, context: int) -> None:
        self.slots = script.slots or slots
        self.context = context
        self._script = script
        self._busy = 0
        self._turns = asyncio.Semaphore(self.slots)

    async def load(self, progress: Progress) -> None:
        """Take `load_s` seconds, then be ready or fail as scripted."""
        for step in range(1, 11):
            await asyncio.sleep(self._script.load_s / 10)
            progress(step / 10)
        match self._script.fail:
            case "crash_at_start":
                os._exit(1)
            case "bad_model":
                raise EngineLoadError("the fake model is damaged, as its source asks for", reason=ExitReason.BAD_MODEL)
            case "oom":
                sys.stderr.write("fake backend: allocating 81920.00 MiB on device 0 failed: out of memory\n")
                raise EngineLoadError(
                    "the fake model does not fit into memory, as its source asks for", reason=ExitReason.OUT_OF_MEMORY
                )

    async def tokenise(self, text: str) -> list[int]:
        """Return a number per word."""
        return list(range(len(text.split())))

    async def prompt_tokens(self, request: ChatRequest) -> list[int]:
        """Return a number per word, and some for each turn."""
        return list(range(_words_of(request)))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Return vectors of a word's length each, as many numbers as were asked for or four."""
        words = [len(each.split()) if isinstance(each, str) else len(each) for each in request.inputs]
        size = request.dimensions or 4
        return Embeddings(tuple((float(count),) * size for count in words), sum(words))

    async def rank(self, request: RankRequest) -> Ranking:
        """Return how many words of the question each text has."""
        asked = set(request.query.split())
        texts = [text.split() for text in request.documents]
        return Ranking(
            tuple(float(len(asked.intersection(words))) for words in texts), len(asked) + sum(map(len, texts))
        )

    @property
    def gauges(self) -> Gauges:
        """Return the slots that are taken; a script keeps no tokens."""
        return Gauges(busy=self._busy)

    @property
    def trouble(self) -> str:
        """Return nothing: its accidents are seen by whoever asks it."""
        return ""

    async def broken(self) -> EngineCrashedError:
        """Never return: its crashes take the whole process with them."""
        await _forever()
        raise AssertionError("for ever is over")

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the scripted tokens, one per delta."""
        begun = len(request.messages[-1].content.split()) if request.continues else 0
        prompt = self._counted(_words_of(request))
        async for delta in self._answer(prompt, request.generation, begun):
            yield delta

    async def complete(self, request: TextRequest) -> AsyncGenerator[Delta, None]:
        """Yield the same tokens, whatever the text, but behind those of them that it ends with."""
        prompt = request.prompt.split() if isinstance(request.prompt, str) else request.prompt
        begun = self._script.begun(request.prompt) if isinstance(request.prompt, str) else 0
        async for delta in self._answer(self._counted(len(prompt)), request.generation, begun):
            yield delta

    @asynccontextmanager
    async def _taken(self) -> AsyncIterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _answer(self, prompt: int, generation: Generation, begun: int) -> AsyncIterator[Delta]:
        async with self._turns, self._taken():
            if self._script.fail == "hang":
                await _forever()
            if self._script.fail == "garbage":
                yield Delta(raw=GARBAGE)
                return
            words = self._script.words(generation.max_tokens, begun)
            finish = Finish.LENGTH if generation.max_tokens else Finish.STOP
            for choice in range(generation.choices):
                async for delta in self._play(words):
                    yield replace(delta, choice=choice)
                last = choice == generation.choices - 1
                usage = Usage(prompt, len(words) * generation.choices) if last else None
                yield Delta(finish=finish, usage=usage, choice=choice)

    async def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _counted(self, count: int) -> int:
        if count >= self.context:
            raise RequestError(
                400,
                f"the prompt has {count} tokens, this model takes {self.context} for prompt and answer together",
                code="context_length_exceeded",
                param="messages",
            )
        return count

    async def _play(self, words: list[str]) -> AsyncIterator[Delta]:
        clock = asyncio.get_running_loop().time
        start, rate = clock(), self._script.tokens_per_s
        crash, hang = self._script.tokens_before("crash"), self._script.tokens_before("hang")
        for index, word in enumerate(words):
            if index == crash:
                os._exit(1)
            if index == hang:
                await _forever()
            if rate:
                # Against the start, so that the rate holds however late the loop wakes up.
                await asyncio.sleep(start + (index + 1) / rate - clock())
            yield Delta(text=word)


def _words_of(request: ChatRequest) -> int:
    pictures = sum(isinstance(part, Picture) for message in request.messages for part in message.parts)
    turns = len(request.messages) - request.continues
    return pictures + _TEMPLATE_TOKENS * turns + sum(len(message.content.split()) for message in request.messages)


async def _forever() -> None:
    await asyncio.Event().wait()


def create(launch: WorkerLaunch) -> FakeEngine:
    """Return a fake engine for a worker spec."""
    spec = launch.worker
    return FakeEngine(read_script(dict(spec.options)), slots=spec.slots, context=spec.context)
