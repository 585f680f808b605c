"""llama.cpp as the front sees it: one decode thread, one answer at a time, the others wait in order of arrival."""

import asyncio
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rbee_runtime.errors import EngineLoadError, ModelStoreError, RequestError
from rbee_runtime.models import gguf
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines import ChatRequest, Delta, Progress, artefact
from rbee_runtime.worker.engines.llamacpp import native
from rbee_runtime.worker.engines.llamacpp.generate import Job, generate
from rbee_runtime.worker.engines.llamacpp.template import CHATML, Render, compile_template
from rbee_runtime.worker.engines.options import read_llama

T = TypeVar("T")
_ALL_LAYERS = 999


class LlamaEngine:
    """A GGUF model served by llama.cpp in this process."""

    slots = 1

    def __init__(self, spec: WorkerSpec, path: Path, directory: Path | None) -> None:
        options = read_llama(spec.options)
        self.context = spec.context
        self._path = path
        self._directory = directory
        cpu = set(spec.devices) <= {"cpu"}
        self._gpu_layers = options.gpu_layers if options.gpu_layers is not None else (0 if cpu else _ALL_LAYERS)
        self._threads = options.threads or len(os.sched_getaffinity(0))
        self._abort = native.Abort()
        self._turn = asyncio.Semaphore(1)
        self._thread = _DecodeThread()
        self._model: native.NativeModel | None = None
        self._render: Render | None = None

    async def load(self, progress: Progress) -> None:
        """Check the file, load it and compile its chat template."""
        try:
            await self._thread.run(lambda: self._load(progress))
        except asyncio.CancelledError:
            self._abort.set(True)
            raise

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer; closing the iterator ends the decode step that runs."""
        job = await asyncio.to_thread(self._prepare, request)
        async with self._turn:
            deltas: asyncio.Queue[Delta | None] = asyncio.Queue()
            work = self._start(job, deltas)
            try:
                while (delta := await deltas.get()) is not None:
                    yield delta
                await asyncio.shield(work)
            finally:
                self._abort.set(True)
                # The next answer may start only when the thread has let go of the context.
                await _settled(work)

    async def close(self) -> None:
        """Free the model when the running step is over."""
        self._abort.set(True)
        if self._model is not None:
            await self._thread.run(self._model.close)
            self._model = None

    def _load(self, progress: Progress) -> None:
        try:
            gguf.read(self._path)
        except ModelStoreError as error:
            raise EngineLoadError(str(error)) from error
        if self._directory is not None:
            artefact.activate(self._directory, "llama-cpp")
        model = native.load(
            self._path,
            context=self.context,
            gpu_layers=self._gpu_layers,
            threads=self._threads,
            progress=progress,
            abort=self._abort,
        )
        self._render = compile_template(model.template or CHATML, bos=model.bos, eos=model.eos)
        self._model, self.context = model, min(self.context, model.size)

    def _prepare(self, request: ChatRequest) -> Job:
        model, render = self._loaded()
        prompt = model.tokens_of(render(request.messages))
        room = self.context - len(prompt)
        if not prompt:
            raise RequestError(400, "the messages hold no text", param="messages")
        if room < 1:
            raise RequestError(
                400,
                f"the prompt has {len(prompt)} tokens, this model takes {self.context} for prompt and answer together; "
                "shorten the messages or raise the model's context in the inventory",
                code="context_length_exceeded",
                param="messages",
            )
        return Job(request, prompt, room if request.max_tokens is None else min(room, request.max_tokens))

    def _start(self, job: Job, deltas: asyncio.Queue[Delta | None]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        model, _ = self._loaded()
        self._abort.set(False)

        def work() -> None:
            try:
                for delta in generate(model, job):
                    loop.call_soon_threadsafe(deltas.put_nowait, delta)
                    if self._abort.is_set:
                        return
            finally:
                loop.call_soon_threadsafe(deltas.put_nowait, None)

        return self._thread.run(work)

    def _loaded(self) -> tuple[native.NativeModel, Render]:
        if self._model is None or self._render is None:
            raise RequestError(503, "the model is not loaded", kind="server_error", retry_after=1)
        return self._model, self._render


class _DecodeThread:
    """Runs functions one after the other in one daemon thread: a hung native call must not keep the process alive."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="decode", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._work.get()()

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Return a future of `function`'s result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller
                _deliver(loop, future, partial(future.set_exception, error))
            else:
                _deliver(loop, future, partial(future.set_result, result))

        self._work.put(call)
        return future


def _deliver(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", settle: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(lambda: None if future.done() else settle())


async def _settled(work: "asyncio.Future[None]") -> None:
    """Wait for the thread even if the caller is cancelled once more."""
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            continue
    if not work.cancelled():
        work.exception()
