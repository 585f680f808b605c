"""What the worker's front knows of an engine, and where each engine is found.

The front imports no engine: `create` loads one by name when the worker starts, so that a machine without llama.cpp
can still run everything else.
"""

import difflib
import importlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, cast

import msgspec

from rbee_runtime.errors import ConfigError, EngineCrashedError
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.worker.engines.vectors import Embeddings, EmbedRequest, Ranking, RankRequest

Progress = Callable[[float], None]
"""Called with 0..1 while a model loads, from any thread."""


class Finish(StrEnum):
    """Why an answer ended; OpenAI's `finish_reason`."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a conversation: its MIME type, its bytes in base64, and how many pixels they say they have."""

    media: str
    data: str
    pixels: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `content` is its text; where pictures are among that, `parts` is what it consists of, in order. `calls` are those
    that an assistant asked for; a tool's answer names the one it answers by `call` and its tool by `name`;
    `thought` is what an assistant thought before it said that.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call: str = ""
    name: str = ""
    parts: tuple[str | Picture, ...] = ()
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may ask for; `parameters` is a JSON schema as text."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


class ToolChoice(StrEnum):
    """Whether a model may ask for tools."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one request; `choice` REQUIRED with `only` asks for that one; `several` allows calls in one turn."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice.AUTO
    only: str = ""
    several: bool = True

    @property
    def offered(self) -> bool:
        """Say whether the model is told of them."""
        return bool(self.tools) and self.choice is not ToolChoice.NONE


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; None means what the engine holds for good, of `seed` a random one.

    `temperature` 0 takes the likeliest token. `logit_bias` is pairs of token id and what is added to its logit;
    `grammar` is GBNF with a rule named root ("": none).
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""


GREEDY = Sampling(temperature=0)
"""Always the likeliest token."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What every request for text may set, whatever it starts from.

    `max_tokens` None means until the context is full; `choices` answers are given to one prompt; `logprobs` is how many
    of the likeliest tokens are told beside each token (None: no probabilities at all).
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    choices: int = 1
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A validated chat request, free of any wire format.

    `schema` is a JSON schema that the answer has to fit; `template` is what the chat template is told besides, such as
    whether to think. With `continues` the answer is the rest of the last message, which is an assistant's text.
    """

    messages: tuple[Message, ...]
    generation: Generation = Generation()
    tools: Tools = Tools()
    schema: str = ""
    template: tuple[tuple[str, str | bool | int | float], ...] = ()
    continues: bool = False

    @property
    def held(self) -> bool:
        """Say whether the answer has to fit something: a call, a schema or a grammar."""
        required = bool(self.tools.tools) and self.tools.choice is ToolChoice.REQUIRED
        return required or bool(self.schema) or bool(self.generation.sampling.grammar)


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A validated request to go on with a text or with token ids, as they are."""

    prompt: str | tuple[int, ...]
    generation: Generation = Generation()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer.

    `cached` of the prompt's tokens were reused from an earlier request; `thought` of the completion's are what the
    model thought before it answered, by our engine with the marks around that.
    """

    prompt: int
    completion: int
    cached: int = 0
    thought: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.thought + other.thought,
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The bytes of a token, its natural log probability, and the same of the likeliest tokens in its place."""

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of an answer: whole characters only, and of which choice.

    `calls` are whole calls of tools, each once; `thought` is of what a model thinks before it answers. The last delta
    of a choice carries `finish`, the last one of all `usage` too. `logprobs` are those of the tokens whose text is out
    with this piece. `produced` is how many tokens the choice has by now, where an engine counts them. `raw` goes out
    on the wire as it is; only the fake engine sets it, to play an engine that answers nonsense.
    """

    text: str = ""
    finish: Finish | None = None
    usage: Usage | None = None
    raw: bytes = b""
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    thought: str = ""
    produced: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """How busy an engine is: slots taken, answers that wait for one, tokens kept and tokens that can be."""

    busy: int = 0
    waiting: int = 0
    held: int = 0
    cells: int = 0


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

    def complete(self, request: TextRequest) -> AsyncGenerator[Delta, None]:
        """Yield what follows a text, otherwise as `chat`."""

    async def tokenise(self, text: str) -> list[int]:
        """Return the token ids of a text, as a prompt would have them."""

    async def prompt_tokens(self, request: ChatRequest) -> list[int]:
        """Return the token ids of a conversation's prompt."""

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Return vectors, or raise RequestError where this engine gives none."""

    async def rank(self, request: RankRequest) -> Ranking:
        """Return how well texts fit a question, or raise RequestError where this engine does not say."""

    @property
    def gauges(self) -> Gauges:
        """Return how busy it is, as of a moment ago."""

    @property
    def trouble(self) -> str:
        """Return why it answers nothing right now though it is loaded, or ""."""

    async def broken(self) -> EngineCrashedError:
        """Return why it is beyond use, as soon as it is."""

    async def close(self) -> None:
        """Free what the engine holds."""


_SERVED = "rbee_runtime.worker.engines.served"
_MODULES = {
    "fake": "rbee_runtime.testing.fake_engine",
    "llama-cpp": "rbee_runtime.worker.engines.llamacpp",
    "llama-server": _SERVED,
    "vllm": _SERVED,
}


def create(launch: WorkerLaunch) -> Engine:
    """Return the engine that a spec names, not loaded yet; ConfigError for an unknown one.

    One that is none of ours is what its folder says.
    """
    name = launch.worker.engine
    if name not in _MODULES and not launch.engine_dir:
        near = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f"; did you mean {near[0]!r}" if near else f"; known: {', '.join(_MODULES)}"
        raise ConfigError(f"unknown engine {name!r}{hint}; any other needs --engine-dir")
    module = importlib.import_module(_MODULES.get(name, _SERVED))
    return cast("Engine", module.create(launch))
