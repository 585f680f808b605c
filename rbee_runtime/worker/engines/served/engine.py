"""A server of OpenAI's API as the front sees it: started, waited for, asked, and watched."""

import asyncio
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from rbee_runtime import logs
from rbee_runtime.errors import EngineCrashedError, EngineLoadError, RequestError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import ChatRequest, Delta, Gauges, Generation, Progress, TextRequest
from rbee_runtime.worker.engines.pictures import BLIND, refuse_pictures
from rbee_runtime.worker.engines.served import answers, asking, figures
from rbee_runtime.worker.engines.served.answers import ScoresAnswer, VectorsAnswer
from rbee_runtime.worker.engines.served.calls import Calls
from rbee_runtime.worker.engines.served.dialects import Chat, Dialect, Place
from rbee_runtime.worker.engines.served.hearing import Hearing
from rbee_runtime.worker.engines.served.program import Program
from rbee_runtime.worker.engines.vectors import Embeddings, EmbedRequest, Ranking, RankRequest, shortened, unserved

POLL_SECONDS = 0.25
"""Between two looks at a server that loads."""

BEAT_SECONDS = 1.0
FIGURE_BEATS = 2
"""vLLM's figures are a hundred kilobytes, some 10 ms for it to write."""

TROUBLE_SECONDS = 8.0
"""A server that answers nothing for so long, with its own 5 s for an answer, gets no traffic for now."""

SILENCE_SECONDS = 60.0
"""A server that neither says that it is well nor sends a byte for so long is stopped or hangs."""

CLOSE_SECONDS = 3.0

SLICE = 64
"""Texts that a server embeds at a time."""

_ON_LOOPBACK = "127.0.0.1"


class ServedEngine:
    """A model served by a program behind this worker's front."""

    def __init__(self, spec: WorkerSpec, dialect: Dialect) -> None:
        self.slots, self.context = spec.slots, spec.context
        self._told = Gauges()
        self._running = 0
        self._model = spec.model
        self._dialect = dialect
        self._folder: Path | None = None
        self._calls: Calls | None = None
        self._program: Program | None = None
        self._watch: asyncio.Task[None] | None = None
        self._progress: Progress = lambda _: None
        self._share = 0.0
        self._reason: ExitReason | None = None
        self._telling = ""
        self._heard = 0.0
        self._crash: EngineCrashedError | None = None
        self._broken = asyncio.Event()

    @property
    def pid(self) -> int:
        """Return the id of the server's process, 0 if there is none."""
        return self._program.pid if self._program is not None else 0

    @property
    def gauges(self) -> Gauges:
        """Return how busy it is: by its own figures, or by the answers that are asked of it."""
        if self._dialect.levels.busy:
            return self._told
        return Gauges(busy=min(self._running, self.slots), waiting=max(0, self._running - self.slots))

    @property
    def trouble(self) -> str:
        """Return why no request is answered right now, or ""."""
        silent = asyncio.get_running_loop().time() - self._heard
        if self._watch is None or silent < TROUBLE_SECONDS:
            return ""
        return f"{self._dialect.name} has not said that it is well for {silent:.0f} s"

    async def load(self, progress: Progress) -> None:
        """Start the server and wait until it is ready."""
        self._progress = progress
        self._folder = own_folder()
        place = Place(self._folder, _free_port(), secrets.token_urlsafe(24))
        try:
            start = self._dialect.start(place)
            self._calls = Calls(place, on_port=start.on_port)
            self._program = Program(self._line, self._gone)
            await self._program.start(start)
            await self._until_ready(self._calls)
        except BaseException:
            # Whoever gives up on a load, by a stop or an error, has nobody to close it later.
            await self.close()
            raise
        self._heard = asyncio.get_running_loop().time()
        self._watch = asyncio.create_task(self._watch_over(self._program, self._calls))
        self._watch.add_done_callback(self._unwatched)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer; closing the iterator ends the request at the server."""
        self._demand_text()
        chat = self._chat(request)
        sent = self._answer("/v1/chat/completions", chat.body, request.generation)
        async with aclosing(sent), aclosing(chat.reader(sent) if chat.reader is not None else sent) as deltas:
            async for delta in deltas:
                yield delta

    async def complete(self, request: TextRequest) -> AsyncGenerator[Delta, None]:
        """Yield what follows a text."""
        self._demand_text()
        body = asking.text_body(self._model, request, self._dialect.words) | self._dialect.named(self._model)
        async with aclosing(self._answer("/v1/completions", body, request.generation)) as deltas:
            async for delta in deltas:
                yield delta

    async def tokenise(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return await self._tokens(*self._dialect.text_tokens(text))

    async def prompt_tokens(self, request: ChatRequest) -> list[int]:
        """Return the tokens of a conversation's prompt."""
        refuse_pictures(request.messages, "how many tokens a picture takes is known when it is read; leave it out")
        path, asked = self._dialect.prompt_of(self._chat(request).body)
        if path == "/tokenize":
            return await self._tokens(path, asked)
        found = await self._ask(path, asked)
        return await self._tokens(*self._dialect.text_tokens(str(found.get("prompt", ""))))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Return vectors."""
        vectors: list[tuple[float, ...]] = []
        tokens = 0
        # In slices: an answer is read at once, and nothing else goes on meanwhile.
        for at in range(0, len(request.inputs), SLICE):
            part = EmbedRequest(request.inputs[at : at + SLICE], request.dimensions)
            body = {**self._dialect.named(self._model), **asking.embed_fields(part)}
            found = answers.embeddings(await self._ask("/v1/embeddings", body, VectorsAnswer), len(part.inputs))
            # llama-server gives them whole, whatever it is asked for.
            vectors += (shortened(each, request.dimensions) for each in found.vectors)
            tokens += found.tokens
        return Embeddings(tuple(vectors), tokens)

    async def rank(self, request: RankRequest) -> Ranking:
        """Return how well texts fit a question."""
        body = {**self._dialect.named(self._model), "query": request.query, "documents": list(request.documents)}
        return answers.ranking(await self._ask("/v1/rerank", body, ScoresAnswer), len(request.documents))

    async def broken(self) -> EngineCrashedError:
        """Return why the server is beyond use, as soon as it is."""
        await self._broken.wait()
        if self._crash is None:
            raise AssertionError("broken without a reason")
        return self._crash

    async def close(self) -> None:
        """End the server."""
        if self._watch is not None:
            self._watch.cancel()
        try:
            if self._program is not None:
                await self._program.close(CLOSE_SECONDS)
            if self._calls is not None:
                await self._calls.close()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _demand_text(self) -> None:
        if not self._dialect.writes:
            raise unserved("text")

    def _chat(self, request: ChatRequest) -> Chat:
        if not self._dialect.sees:
            refuse_pictures(request.messages, BLIND)
        return self._dialect.chat(asking.chat_body(self._model, request, self._dialect.words), request)

    async def _answer(self, path: str, body: dict[str, Any], generation: Generation) -> AsyncGenerator[Delta, None]:
        choices, top = generation.choices, generation.logprobs or 0
        calls, clock = self._reachable(), asyncio.get_running_loop().time
        self._running += choices
        try:
            async with aclosing(Hearing(choices, top).deltas(calls.events(path, body))) as deltas:
                async for delta in deltas:
                    self._heard = clock()
                    yield delta
        except EngineCrashedError as error:
            raise await self._meant(error) from error
        finally:
            self._running -= choices

    async def _tokens(self, path: str, body: dict[str, Any]) -> list[int]:
        found = await self._ask(path, body)
        tokens = found.get("tokens") if isinstance(found, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise RequestError(500, "the engine gave no tokens", kind="server_error", code="engine_failed")
        return tokens

    async def _ask(self, path: str, body: dict[str, Any], kind: Any = Any) -> Any:
        try:
            return await self._reachable().post(path, body, kind)
        except EngineCrashedError as error:
            raise await self._meant(error) from error

    async def _meant(self, error: EngineCrashedError) -> Exception:
        """Return the crash if the server is gone, which ends this worker, and else a failure of this one request."""
        # A process that ended a moment ago closed its connections before anybody could see it end.
        try:
            async with asyncio.timeout(BEAT_SECONDS):
                return await self.broken()
        except TimeoutError:
            logs.warning("engine_failed", detail=error)
            message = "the engine failed while it answered this request"
            return RequestError(500, message, kind="server_error", code="engine_failed")

    def _reachable(self) -> Calls:
        if self._crash is not None:
            raise self._crash
        if self._calls is None or self._watch is None:
            raise RequestError(503, "the model is not loaded", kind="server_error", retry_after=1)
        return self._calls

    async def _until_ready(self, calls: Calls) -> None:
        while await calls.status(self._dialect.ready_path) != _OK:
            if self._crash is not None:
                raise self._not_loaded(self._crash)
            await asyncio.sleep(POLL_SECONDS)
        # One that ends as soon as it has said that it is well was another's.
        if self._crash is not None:
            raise self._not_loaded(self._crash)
        self._progress(1.0)

    def _not_loaded(self, crash: EngineCrashedError) -> EngineLoadError:
        reason = self._reason or crash.reason or self._dialect.unknown_reason
        cause = "" if self._telling in str(crash) else f"{self._telling[:300]}; "
        return EngineLoadError(f"{self._dialect.name} did not get ready: {cause}{crash}", reason=ExitReason(reason))

    def _line(self, line: str) -> None:
        if self._reason is None:
            self._reason = self._dialect.reason(line)
            self._telling = line if self._reason is not None else ""
        share = self._dialect.progress(line)
        if share is not None and share > self._share:
            self._share = share
            self._progress(share)

    def _gone(self, error: EngineCrashedError) -> None:
        self._crash = self._crash or error
        self._broken.set()

    def _unwatched(self, watch: "asyncio.Task[None]") -> None:
        """End a server that nobody watches any more."""
        if not watch.cancelled() and (error := watch.exception()) is not None:
            self._gone(EngineCrashedError(f"it cannot be watched: {error!r}"))

    async def _watch_over(self, program: Program, calls: Calls) -> None:
        """Ask the server again and again how it is, and end it if it is silent."""
        clock, beat = asyncio.get_running_loop().time, 0
        while True:
            if await calls.status(self._dialect.ready_path) == _OK:
                self._heard = clock()
            if beat % FIGURE_BEATS == 0 and self._dialect.levels.busy:
                self._told = figures.gauges(await calls.text("/metrics"), self._dialect.levels)
            if clock() - self._heard > SILENCE_SECONDS:
                message = f"{self._dialect.name} has not said that it is well for {SILENCE_SECONDS:g} s"
                logs.error("engine_stuck", pid=program.pid, detail=message)
                self._gone(EngineCrashedError(message))
                program.kill()
                return
            beat += 1
            await asyncio.sleep(BEAT_SECONDS)


_OK = 200
_PREFIX = "rbee-engine-"


def own_folder() -> Path:
    """Return a new folder for this process, without those of processes that could not remove theirs."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path(f"/proc/{pid}").exists() and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def _free_port() -> int:
    """Return a port of loopback that nobody has now; the server fails with a sentence where that changes at once."""
    with socket.socket() as probe:
        probe.bind((_ON_LOOPBACK, 0))
        return int(probe.getsockname()[1])
