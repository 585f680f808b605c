"""llama.cpp as the front sees it: a process that answers many requests at once, and a watch over it."""

import asyncio
import json
import os
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from rbee_runtime import logs
from rbee_runtime.errors import EngineCrashedError, EngineLoadError, RequestError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import (
    ChatRequest,
    Delta,
    Gauges,
    Generation,
    Progress,
    TextRequest,
    ToolChoice,
    thoughts,
)
from rbee_runtime.worker.engines.calling import with_calls
from rbee_runtime.worker.engines.llamacpp import wire
from rbee_runtime.worker.engines.llamacpp.child import Child
from rbee_runtime.worker.engines.llamacpp.conversation import turns
from rbee_runtime.worker.engines.llamacpp.preparer import Preparer
from rbee_runtime.worker.engines.llamacpp.preparing import Compile
from rbee_runtime.worker.engines.llamacpp.template import CHATML
from rbee_runtime.worker.engines.options import Task, read_llama
from rbee_runtime.worker.engines.pictures import BLIND, refuse_pictures
from rbee_runtime.worker.engines.served.dialects import visible
from rbee_runtime.worker.engines.tool_forms import (
    SPECIAL,
    ToolForm,
    definition,
    form_of,
    schema_of,
    told,
    wrapped,
)
from rbee_runtime.worker.engines.vectors import Embeddings, EmbedRequest, Ranking, RankRequest, shortened, unserved

BEAT_SECONDS = 1.0
"""Between two questions to the engine's process."""

TROUBLE_SECONDS = 5.0
"""A process that answers none for so long gets no traffic for now."""

SILENCE_SECONDS = 30.0
"""A process that answers none for so long is stopped or hangs. Its reader answers while a step is computed, however
long that takes, and a machine that swaps for so long serves nobody."""

STEP_SECONDS = 300.0
"""A step is planned to take less than a second, the first one is of 128 tokens whatever the machine; one that takes so
long hangs in a driver. After a fifth of it there is no traffic."""

TEXT_SECONDS = 1800.0
"""The same of a step that embeds: a long text is one, however slow the machine."""

CLOSE_SECONDS = 3.0

_Answer = Delta | wire.Tokens | wire.Vectors | RequestError | EngineCrashedError
_Heard = asyncio.Queue[_Answer]
_W = TypeVar("_W", wire.Tokens, wire.Vectors)


class LlamaEngine:
    """A GGUF model served by llama.cpp in a process of its own."""

    def __init__(self, spec: WorkerSpec, path: Path, directory: Path | None) -> None:
        options = read_llama(spec.options, spec.slots)
        self.slots = spec.slots
        self.context = spec.context
        self._devices = spec.devices
        self.gauges = Gauges()
        cpu = set(spec.devices) <= {"cpu"}
        gpu_layers = 0 if cpu and options.gpu_layers is None else options.gpu_layers
        self._order = wire.Load(
            path=str(path),
            directory=str(directory or ""),
            context=spec.context,
            slots=spec.slots,
            gpu_layers=gpu_layers,
            threads=options.threads or len(os.sched_getaffinity(0)),
            # A step holds a token of each answer at least.
            batch=max(options.batch, spec.slots),
            flash_attention=options.flash_attention,
            kv_type=options.kv_type,
            parking=options.prompt_cache_mib << 20,
            shares=options.shares(),
            task=options.task,
            pooling=options.pooling,
        )
        self._numbers = count(1)
        self._waiting: dict[int, _Heard] = {}
        self._child: Child | None = None
        self._crash: EngineCrashedError | None = None
        self._progress: Progress | None = None
        self._loaded: asyncio.Future[wire.Loaded] | None = None
        self._preparer: Preparer | None = None
        self._form = ToolForm.PLAIN
        self._thinks = False
        self._task = Task.GENERATE
        self._watch: asyncio.Task[None] | None = None
        self._answered = 0.0
        self._step = self._stuck = 0.0
        self._broken = asyncio.Event()

    @property
    def trouble(self) -> str:
        """Return why no request is answered right now, or ""."""
        silent = asyncio.get_running_loop().time() - self._answered
        if self._watch is None:
            return ""
        if self._step >= self._patience / 5:
            return f"a step of the engine has been running for {self._step:.0f} s"
        if self._stuck >= wire.STUCK_SECONDS:
            return "a grammar of a client has no end; the engine begins anew when its answers have ended"
        if silent < TROUBLE_SECONDS:
            return ""
        return f"the engine's process has been silent for {silent:.0f} s"

    @property
    def _patience(self) -> float:
        return STEP_SECONDS if self._task is Task.GENERATE else TEXT_SECONDS

    @property
    def pid(self) -> int:
        """Return the id of its process, 0 if there is none."""
        return self._child.pid if self._child is not None else 0

    async def load(self, progress: Progress) -> None:
        """Start the process, have it load the file, and compile the model's chat template."""
        self._progress = progress
        self._loaded = asyncio.get_running_loop().create_future()
        self._child = Child(self._heard, self._gone, visible(self._devices))
        try:
            await self._child.start(self._order)
            loaded = await self._loaded
            template = loaded.template or CHATML
            if loaded.task is Task.GENERATE:
                self._preparer = Preparer(Compile(template, loaded.bos, loaded.eos, self._order.directory))
                await self._preparer.start()
        except BaseException:
            # Whoever gives up on a load, by a stop or an error, has nobody to close it later.
            await self.close()
            raise
        if loaded.context < self.context:
            logs.warning(
                "context_cut", wanted=self.context, taken=loaded.context, why="the model was trained for no more"
            )
        self._task, self._form, self.context = loaded.task, form_of(template), loaded.context
        self._thinks = thoughts.END in template
        self._answered = asyncio.get_running_loop().time()
        self._watch = asyncio.create_task(self._watch_over(self._child))

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer; closing the iterator frees its slots within a step."""
        preparer, tools = self._prepared(), request.tools
        generation = replace(
            request.generation,
            sampling=replace(request.generation.sampling, grammar=await self._grammar(preparer, request)),
        )
        prompt = await self._prompt(preparer, request)
        inside = self._inside(prompt)
        # Marks are control tokens in some vocabularies, which have no text of their own.
        shown = (*(SPECIAL if tools.offered else ()), *((thoughts.BEGIN, thoughts.END) if self._thinks else ()))
        async with aclosing(self._generate(prompt, generation, shown=shown)) as deltas:
            # What goes on with an answer is beyond the thoughts that began it.
            thinks = self._thinks and not request.continues
            told = thoughts.with_thoughts(deltas, inside=inside) if thinks else deltas
            answer = with_calls(told, self._form, several=tools.several) if tools.offered else told
            async for delta in answer:
                yield delta

    async def complete(self, request: TextRequest) -> AsyncGenerator[Delta, None]:
        """Yield what follows a text."""
        self._demand(Task.GENERATE, "text")
        prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
        async with aclosing(self._generate(prompt, request.generation)) as deltas:
            async for delta in deltas:
                yield delta

    async def tokenise(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        number = next(self._numbers)
        found = await self._asked(number, wire.Tokenise(number, text), wire.Tokens)
        return found.tokens

    async def prompt_tokens(self, request: ChatRequest) -> list[int]:
        """Return the tokens of a conversation's prompt."""
        return await self.tokenise(await self._prompt(self._prepared(), request))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Return vectors of length 1."""
        self._demand(Task.EMBED, "embeddings")
        number = next(self._numbers)
        texts = [each if isinstance(each, str) else list(each) for each in request.inputs]
        found = await self._asked(number, wire.Embed(number, texts), wire.Vectors)
        vectors = (shortened(array("f", each), request.dimensions) for each in found.vectors)
        return Embeddings(tuple(vectors), found.tokens)

    async def rank(self, request: RankRequest) -> Ranking:
        """Refuse: that is llama-server's."""
        del request
        raise unserved("reranking")

    async def broken(self) -> EngineCrashedError:
        """Return why the process is beyond use, as soon as it is."""
        await self._broken.wait()
        if self._crash is None:
            raise AssertionError("broken without a reason")
        return self._crash

    async def close(self) -> None:
        """End the process."""
        if self._watch is not None:
            self._watch.cancel()
        if self._preparer is not None:
            await self._preparer.close()
        if self._child is not None:
            await self._child.close(CLOSE_SECONDS)
            self._child = None

    async def _asked(self, number: int, message: wire.Tokenise | wire.Embed, kind: type[_W]) -> _W:
        """Return the one answer to a message; closing it by a cancellation frees what it takes."""
        child = self._alive()
        heard = self._waiting[number] = _Heard()
        over = False
        try:
            child.send(message)
            answer = await heard.get()
            over = True
        finally:
            del self._waiting[number]
            if not over:
                child.send(wire.Cancel(number))
        if isinstance(answer, kind):
            return answer
        raise answer if isinstance(answer, Exception) else AssertionError(f"{answer} is no answer to a text")

    def _demand(self, task: Task, what: str) -> None:
        """Raise RequestError unless the model is loaded for that."""
        self._alive()
        if self._task is not task:
            raise unserved(what)

    def _prepared(self) -> Preparer:
        self._demand(Task.GENERATE, "text")
        if self._preparer is None:
            raise _unloaded()
        return self._preparer

    async def _prompt(self, preparer: Preparer, request: ChatRequest) -> str:
        """Return the prompt; what an answer is held to, its thoughts are not, so there they are over at once."""
        refuse_pictures(request.messages, BLIND)
        if request.continues:
            before, begun = replace(request, messages=request.messages[:-1]), request.messages[-1].content
            prompt = await self._rendered(preparer, before)
            return (prompt.rstrip() + thoughts.CLOSED if self._inside(prompt) else prompt) + begun
        prompt = await self._rendered(preparer, request)
        return prompt.rstrip() + thoughts.CLOSED if self._inside(prompt) and request.held else prompt

    async def _rendered(self, preparer: Preparer, request: ChatRequest) -> str:
        tools = request.tools.tools if request.tools.offered else ()
        if self._form is ToolForm.PLAIN and tools:
            return await preparer.render(turns(told(request.messages, tools)), (), request.template)
        return await preparer.render(turns(request.messages), [definition(tool) for tool in tools], request.template)

    def _inside(self, prompt: str) -> bool:
        """Say whether a prompt ends within thoughts."""
        return self._thinks and prompt.rstrip().endswith(thoughts.BEGIN)

    async def _grammar(self, preparer: Preparer, request: ChatRequest) -> str:
        """Return what the answer is held to: calls, a schema, the client's own grammar, or nothing."""
        tools = request.tools
        if tools.tools and tools.choice is ToolChoice.REQUIRED:
            one = await preparer.grammar_of(json.dumps(schema_of(tools, self._form)), "tools")
            return wrapped(one, self._form, several=tools.several and not tools.only)
        if request.schema:
            return await preparer.grammar_of(request.schema, "response_format")
        return request.generation.sampling.grammar

    async def _generate(
        self, prompt: str | list[int], generation: Generation, *, shown: tuple[str, ...] = ()
    ) -> AsyncGenerator[Delta, None]:
        child = self._alive()
        number, heard = next(self._numbers), _Heard()
        self._waiting[number] = heard
        over = False
        try:
            child.send(_submission(number, prompt, generation, shown))
            while not over:
                delta = await heard.get()
                if not isinstance(delta, Delta):
                    raise delta if isinstance(delta, Exception) else AssertionError(f"{delta} is no part of an answer")
                over = delta.usage is not None
                yield delta
        except (RequestError, EngineCrashedError):
            # The engine's process says these of a request that it holds no more.
            over = True
            raise
        finally:
            del self._waiting[number]
            if not over:
                child.send(wire.Cancel(number))

    def _alive(self) -> Child:
        if self._crash is not None:
            raise self._crash
        if self._child is None:
            raise _unloaded()
        return self._child

    def _heard(self, message: Any) -> None:
        match message:
            case wire.Pieces():
                for piece in message.pieces:
                    self._tell(piece.request, piece.delta)
            case wire.Tokens() | wire.Vectors():
                self._tell(message.request, message)
            case wire.Refused():
                self._tell(message.request, message.error)
            case wire.Progress() if self._progress is not None:
                self._progress(message.share)
            case wire.Pong():
                self._answered = asyncio.get_running_loop().time()
                if message.stuck >= wire.STUCK_SECONDS > self._stuck:
                    logs.warning("grammar_without_end", detail="it begins anew when its answers have ended")
                self._step, self._stuck = message.step, message.stuck
                self.gauges = Gauges(message.busy, message.waiting, message.held, self.context * self.slots)
            case wire.Loaded() if self._loaded is not None and not self._loaded.done():
                self._loaded.set_result(message)
            case wire.NotLoaded() if self._loaded is not None and not self._loaded.done():
                self._loaded.set_exception(EngineLoadError(message.message, reason=ExitReason(message.reason)))

    def _tell(self, request: int, what: _Answer) -> None:
        # One that was cancelled meanwhile has no queue any more.
        if (heard := self._waiting.get(request)) is not None:
            heard.put_nowait(what)

    def _gone(self, error: EngineCrashedError) -> None:
        self._crash = self._crash or error
        self._broken.set()
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(self._crash)
        for heard in self._waiting.values():
            heard.put_nowait(self._crash)

    async def _watch_over(self, child: Child) -> None:
        """Ask the process again and again whether it is there, and end it if it is silent."""
        clock = asyncio.get_running_loop().time
        for number in count(1):
            child.send(wire.Ping(number))
            await asyncio.sleep(BEAT_SECONDS)
            silent = clock() - self._answered > SILENCE_SECONDS
            if silent or self._step > self._patience:
                what = (
                    f"not answered for {SILENCE_SECONDS:g} s"
                    if silent
                    else f"been in one step for {self._patience:g} s"
                )
                message = f"its process has {what}"
                logs.error("engine_stuck", pid=child.pid, detail=message)
                self._gone(EngineCrashedError(message))
                child.kill()
                return


def _unloaded() -> RequestError:
    return RequestError(503, "the model is not loaded", kind="server_error", retry_after=1)


def _submission(number: int, prompt: str | list[int], generation: Generation, shown: tuple[str, ...]) -> wire.Submit:
    return wire.Submit(
        request=number,
        prompt=prompt,
        room=generation.max_tokens,
        stop=generation.stop,
        sampling=generation.sampling,
        choices=generation.choices,
        logprobs=generation.logprobs,
        shown=shown,
    )
