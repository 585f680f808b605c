"""One request for text and the form of its answer, whichever API it came by."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rbee_runtime.worker.engines import Delta, Engine, Finish, TokenLogprob, ToolCall, Usage

Item = Mapping[str, Any] | bytes
"""An event: what it says, or events as they go out."""

DONE = b"data: [DONE]\n\n"
"""OpenAI's last event of chats and completions."""


@dataclass(slots=True)
class Choice:
    """One whole answer, gathered from its pieces."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finish: Finish = Finish.STOP
    thoughts: list[str] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Append a piece."""
        self.texts.append(delta.text)
        self.thoughts.append(delta.thought)
        self.logprobs += delta.logprobs
        self.calls += delta.calls
        if delta.finish is not None:
            self.finish = delta.finish


class Shape(Protocol):
    """The JSON of one answer: the same `id` and `created` in every event."""

    def opening(self, choice: int) -> Item | None:
        """Return the event before the first piece of a choice, if there is one."""

    def piece(self, delta: Delta) -> Item:
        """Return the event of a piece of text."""

    def ending(self, delta: Delta) -> Item:
        """Return the event that ends a choice."""

    def closing(self, usage: Usage, *, told: bool) -> tuple[Item, ...]:
        """Return the events that end the answer; `told` says that OpenAI's client asked for the count."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """Return the answer that is no stream."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that this worker can serve: of which model, what to ask its engine, and in which form to answer.

    With `continues` the answer is the rest of a text.
    """

    model: str
    stream: bool
    include_usage: bool
    choices: int
    shape: Shape
    ask: Callable[[Engine], AsyncGenerator[Delta, None]]
    continues: bool = False


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.thought},
    }


def text_of(piece: bytes) -> str:
    """Return the text of a token's bytes, which may be a part of a character."""
    return piece.decode("utf-8", "replace")
