"""The front's side of preparing.py: ask, and start it anew after a question that it did not survive."""

import asyncio
import contextlib
import signal
from collections.abc import Iterable, Sequence
from typing import Any

from rbee_runtime import logs
from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.worker.engines import attendant
from rbee_runtime.worker.engines.llamacpp import preparing, wire
from rbee_runtime.worker.engines.llamacpp.preparing import Compile, Question, Rendering, Schema, Wrong

PATIENCE_SECONDS = 60.0
"""Of the clock: the process bounds its own processor time, but a machine that swaps gives it none."""

_MODULE = "rbee_runtime.worker.engines.llamacpp.preparing"


class Preparer:
    """One process, asked one question at a time; further ones wait in order."""

    def __init__(self, template: Compile) -> None:
        self._template = template
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._asking: set[asyncio.Task[preparing.Text | Wrong | None]] = set()

    @property
    def pid(self) -> int:
        """Return the id of its process, 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start it and compile the template; EngineLoadError if that is none."""
        answer = await self._exchange(self._template)
        if answer is None:
            raise EngineLoadError("the process that runs the model's chat template does not start")
        if isinstance(answer, Wrong):
            raise EngineLoadError(answer.message)

    async def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        besides: Iterable[tuple[str, str | bool | float]] = (),
    ) -> str:
        """Return the prompt of a conversation; RequestError if the template refuses it or does not end."""
        return await self._ask(Rendering(list(messages), list(tools) or None, dict(besides)), "messages")

    async def grammar_of(self, schema: str, param: str) -> str:
        """Return the grammar of a JSON schema, which came in field `param`; RequestError if it has none."""
        return await self._ask(Schema(schema), param)

    async def close(self) -> None:
        """End it."""
        for task in self._asking:
            task.cancel()
        await self._end()

    async def _ask(self, question: Question, param: str) -> str:
        # A client that leaves before its turn has asked nothing; one that leaves later leaves no half question.
        await self._turn.acquire()
        task = asyncio.create_task(self._answered(question))
        self._asking.add(task)
        task.add_done_callback(self._done)
        answer = await asyncio.shield(task)
        if answer is None:
            what = "the model's chat template takes" if param == "messages" else "this schema takes"
            message = f"{what} more than {preparing.SECONDS:g} s of processor time or too much memory"
            raise RequestError(400, message, code="too_expensive", param=param)
        if isinstance(answer, Wrong):
            raise RequestError(
                400, f"{param}: {answer.message}" if answer.param is None else answer.message, param=param
            )
        return answer.text

    async def _answered(self, question: Question) -> preparing.Text | Wrong | None:
        if self._process is not None and self._process.returncode is not None:
            logs.warning("preparer_ended", status=self._process.returncode)
            await self._end()
        if self._process is None and not isinstance(await self._exchange(self._template), preparing.Text):
            await self._end()
            return None
        return await self._exchange(question)

    def _done(self, task: "asyncio.Task[preparing.Text | Wrong | None]") -> None:
        self._asking.discard(task)
        self._turn.release()

    async def _exchange(self, question: Question) -> preparing.Text | Wrong | None:
        """Return the answer, None if the process ended instead; it is gone then."""
        process = self._process = self._process or await self._started()
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started without pipes")
        try:
            frame = preparing.framed(question)
        except (UnicodeEncodeError, OverflowError, RecursionError) as error:
            message = f"it has what cannot be told to a template: {error}"
            raise RequestError(400, message, param="messages") from error
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                process.stdin.write(frame)
                await process.stdin.drain()
                head = await process.stdout.readexactly(wire.HEAD)
                return preparing.answer_in(await process.stdout.readexactly(wire.length_of(head)))
        except (OSError, RuntimeError, TimeoutError, asyncio.IncompleteReadError):
            # uvloop's RuntimeError: the pipe was closed between two questions.
            await self._end()
            return None
        except BaseException:
            await self._end()
            raise

    async def _started(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *attendant.command(_MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=wire.LARGEST,
            env=attendant.environment(),
            start_new_session=True,
        )

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
