"""What the worker's front knows of an engine, and where each engine is found.

The front imports no engine: `create` loads one by name when the worker starts, so that a machine without llama.cpp
can still run everything else.
"""

import difflib
import importlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

from rbee_runtime.errors import ConfigError
from rbee_runtime.protocol import WorkerLaunch

Progress = Callable[[float], None]
"""Called with 0..1 while a model loads, from any thread."""


class Finish(StrEnum):
    """Why an answer ended; OpenAI's `finish_reason`."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; text only."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A validated chat request, free of any wire format.

    `max_tokens` None means until the context is full; `temperature` and `top_p` None mean what the engine holds for
    good; `seed` None means a random one.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `cached` of the prompt's tokens were reused from an earlier request."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: whole characters only. The last one of an answer carries `finish` and `usage`.

    `raw` goes out on the wire as it is; only the fake engine sets it, to play an engine that answers nonsense.
    """

    text: str = ""
    finish: Finish | None = None
    usage: Usage | None = None
    raw: bytes = b""


class Engine(Protocol):
    """One loaded model. All methods are called from the event loop."""

    @property
    def slots(self) -> int:
        """Return how many answers it produces at a time; further ones wait in order of arrival."""

    @property
    def context(self) -> int:
        """Return tokens per sequence; final only after `load`."""

    async def load(self, progress: Progress) -> None:
        """Load the model or raise EngineLoadError; cancelling gives up."""

    def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer.

        Raises RequestError before the first delta when the request cannot be served, EngineCrashedError when the engine
        is beyond use. Closing the iterator frees the slot.
        """

    async def close(self) -> None:
        """Free what the engine holds."""


_MODULES = {
    "fake": "rbee_runtime.testing.fake_engine",
    "llama-cpp": "rbee_runtime.worker.engines.llamacpp",
}


def create(launch: WorkerLaunch) -> Engine:
    """Return the engine that a spec names, not loaded yet; ConfigError for an unknown one."""
    name = launch.worker.engine
    if name not in _MODULES:
        near = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f"; did you mean {near[0]!r}" if near else f"; known: {', '.join(_MODULES)}"
        raise ConfigError(f"unknown engine {name!r}{hint}")
    module = importlib.import_module(_MODULES[name])
    return cast("Engine", module.create(launch))
