"""The process that runs what strangers wrote: chat templates and schemas.

It is bounded in time and memory, and apart from the front and the engine, so that one that never ends costs its own
client an error and nobody else anything.

One question at a time over stdin and stdout, framed as in wire.py.
"""

import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.worker.engines import artefact, attendant
from rbee_runtime.worker.engines.llamacpp import schemas, wire
from rbee_runtime.worker.engines.llamacpp.template import Render, compile_template

SECONDS = 1.0
"""Of processor time for one question; the templates of published models take milliseconds."""

MEMORY = 1 << 30
"""Bytes of address space: interpreter and libraries take a tenth."""


class Compile(msgspec.Struct, frozen=True, tag=True):
    """The first question: can this template be used? `directory` is the engine artefact ("": installed packages)."""

    source: str
    bos: str
    eos: str
    directory: str


class Rendering(msgspec.Struct, frozen=True, tag=True):
    """The prompt of a conversation, as the template sees it; `besides` is what else it is told by name."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    besides: dict[str, str | bool | int | float] = {}


class Schema(msgspec.Struct, frozen=True, tag=True):
    """The grammar of a JSON schema."""

    schema: str


class Text(msgspec.Struct, frozen=True, tag=True):
    """The answer."""

    text: str


class Wrong(msgspec.Struct, frozen=True, tag=True):
    """Why there is none."""

    message: str
    param: str | None = None


Question = Compile | Rendering | Schema
_questions = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(Text | Wrong)
_encoder = msgspec.msgpack.Encoder()


def framed(message: Question | Text | Wrong) -> bytes:
    """Return a message behind its length."""
    return wire.framed(_encoder.encode(message))


def answer_in(payload: bytes) -> Text | Wrong:
    """Return the answer in a frame."""
    answer: Text | Wrong = _answers.decode(payload)
    return answer


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Answer questions until there are no more."""
    state: list[Render] = []
    while len(head := asked.read(wire.HEAD)) == wire.HEAD:
        question = _questions.decode(asked.read(wire.length_of(head)))
        # The default action of SIGPROF ends the process, also where a template is deep inside of C.
        signal.setitimer(signal.ITIMER_PROF, SECONDS if state else 0.0)
        answer = _answer(question, state)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        answers.write(framed(answer))
        answers.flush()


def _answer(question: Question, state: list[Render]) -> Text | Wrong:
    try:
        return Text(_text(question, state))
    except (RequestError, EngineLoadError) as error:
        return Wrong(str(error), getattr(error, "param", None))
    except MemoryError:
        what = "this schema" if isinstance(question, Schema) else "the model's chat template"
        return Wrong(f"{what} takes too much memory")


def _text(question: Question, state: list[Render]) -> str:
    match question:
        case Compile():
            if question.directory:
                artefact.activate(Path(question.directory), "llama-cpp")
            state[:] = [compile_template(question.source, bos=question.bos, eos=question.eos)]
            return ""
        case Rendering():
            render: Callable[..., str] = state[0]
            return render(question.messages, question.tools, question.besides)
        case Schema():
            return schemas.grammar_of(question.schema)


def main() -> None:
    """Serve stdin and stdout within bounds."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if attendant.attend():
        serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
