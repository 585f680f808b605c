"""A server's stream of events as pieces of an answer."""

import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines import Delta, Finish, TokenLogprob, ToolCall, Usage
from rbee_runtime.worker.engines.served.calls import DONE, ended


class TopToken(msgspec.Struct, frozen=True):
    """A token and its probability; `raw` is its bytes where the server tells them."""

    token: str = ""
    logprob: float = 0.0
    raw: list[int] | None = msgspec.field(name="bytes", default=None)

    @property
    def piece(self) -> bytes:
        """Return the token's bytes."""
        return bytes(self.raw) if self.raw is not None else self.token.encode()


class ChosenToken(TopToken, frozen=True):
    """A token of the answer and the likeliest ones in its place."""

    top_logprobs: list[TopToken] = []


class Logprobs(msgspec.Struct, frozen=True):
    """Of a chat the first field, of a completion the others or, from llama-server, the first one too."""

    content: list[ChosenToken] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """A part of a call."""

    name: str | None = None
    arguments: str | None = None


class CallPart(msgspec.Struct, frozen=True):
    """A part of the call of that index."""

    index: int = 0
    id: str | None = None
    function: CalledFunction | None = None


class Said(msgspec.Struct, frozen=True):
    """What an event adds to a choice."""

    content: str | None = None
    tool_calls: list[CallPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def thought(self) -> str:
        """Return a piece of what the model thinks, by llama-server's name of it or vLLM's."""
        return self.reasoning_content or self.reasoning or ""


class ChoicePart(msgspec.Struct, frozen=True):
    """One choice in an event: `delta` of a chat, `text` of a completion."""

    index: int = 0
    delta: Said | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class CachedTokens(msgspec.Struct, frozen=True):
    """`prompt_tokens_details`."""

    cached_tokens: int | None = None


class ThoughtTokens(msgspec.Struct, frozen=True):
    """`completion_tokens_details`."""

    reasoning_tokens: int | None = None


class Counted(msgspec.Struct, frozen=True):
    """`usage`."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: CachedTokens | None = None
    completion_tokens_details: ThoughtTokens | None = None

    def usage(self) -> Usage:
        """Return it as the front has it."""
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details is not None else 0
        details = self.completion_tokens_details
        thought = details.reasoning_tokens if details is not None else 0
        return Usage(self.prompt_tokens, self.completion_tokens or 0, cached or 0, thought or 0)


class Event(msgspec.Struct, frozen=True):
    """One event."""

    choices: list[ChoicePart] = []
    usage: Counted | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(Event)


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def whole(self) -> ToolCall:
        return ToolCall(self.id or f"call_{uuid.uuid4().hex[:24]}", self.name, "".join(self.arguments) or "{}")


class Hearing:
    """One answer of `choices` choices as it comes in, with `top` likeliest tokens beside each."""

    def __init__(self, choices: int, top: int = 0) -> None:
        self._top = top
        self._open = set(range(choices))
        self._calls: dict[int, dict[int, _Call]] = defaultdict(dict)
        self._pieces = self._thoughts = 0
        self._usage: Usage | None = None
        self._last: Delta | None = None
        self._so_far = False

    async def deltas(self, events: AsyncGenerator[str, None]) -> AsyncGenerator[Delta, None]:
        """Yield the pieces; EngineCrashedError for what is no answer, RequestError for an error in its midst."""
        async with aclosing(events):
            async for data in events:
                if data == DONE:
                    break
                for delta in self._read(data):
                    yield delta
        if self._open or self._last is None:
            raise RequestError(
                500, "the engine ended this answer before it was complete", kind="server_error", code="engine_failed"
            )
        yield msgspec.structs.replace(self._last, usage=self._counted())

    def _counted(self) -> Usage:
        """Return the count; what a server does not count is taken at its pieces, of which most have one token."""
        usage = self._usage or Usage(0, self._pieces)
        return replace(usage, thought=usage.thought or min(self._thoughts, usage.completion))

    def _read(self, data: str) -> list[Delta]:
        try:
            event = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise EngineCrashedError(f"it sent an event that is none of OpenAI's: {error}") from error
        if event.error is not None:
            raise ended(event.error)
        if event.usage is not None:
            self._count(event.usage.usage(), whole=bool(event.choices))
        return [delta for choice in event.choices for delta in self._choice(choice)]

    def _count(self, usage: Usage, *, whole: bool) -> None:
        """Note a count: of the answer so far where it comes with a piece, else of one choice or of all of them.

        llama-server counts each choice by itself, and the one prompt with each.
        """
        before, self._so_far = None if self._so_far else self._usage, whole
        if whole or before is None:
            self._usage = usage
        else:
            prompt, cached = max(before.prompt, usage.prompt), max(before.cached, usage.cached)
            self._usage = Usage(prompt, before.completion + usage.completion, cached, before.thought + usage.thought)

    def _choice(self, choice: ChoicePart) -> list[Delta]:
        said = choice.delta or Said()
        text = said.content or choice.text or ""
        for part in said.tool_calls or ():
            self._add(choice.index, part)
        logprobs = _logprobs(choice.logprobs, self._top)
        found = []
        if text or logprobs or said.thought:
            self._pieces += 1
            self._thoughts += bool(said.thought)
            found.append(Delta(text, choice=choice.index, logprobs=logprobs, thought=said.thought))
        if choice.finish_reason is not None:
            ending = self._ending(choice)
            if self._open:
                found.append(ending)
            else:
                # Kept until all is counted: the last piece of an answer says that too.
                self._last = ending
        return found

    def _add(self, choice: int, part: CallPart) -> None:
        call = self._calls[choice].setdefault(part.index, _Call())
        function = part.function or CalledFunction()
        call.id = call.id or part.id or ""
        call.name = call.name or function.name or ""
        call.arguments.append(function.arguments or "")

    def _ending(self, choice: ChoicePart) -> Delta:
        if choice.finish_reason in _CUT:
            raise ended(f"{choice.finish_reason} of choice {choice.index}")
        self._open.discard(choice.index)
        calls = tuple(call.whole() for _, call in sorted(self._calls.pop(choice.index, {}).items()))
        finish = _FINISHES.get(choice.finish_reason or "", Finish.STOP)
        # A named tool is called under the finish "stop" by some servers.
        return Delta(choice=choice.index, calls=calls, finish=Finish.TOOL_CALLS if calls else finish)


_CUT = frozenset({"abort", "error"})
"""What vLLM says of an answer that it gave up."""

_FINISHES: Mapping[str, Finish] = {finish.value: finish for finish in Finish}


def _logprobs(found: Logprobs | None, most: int) -> tuple[TokenLogprob, ...]:
    if found is None:
        return ()
    if found.content is not None:
        return tuple(
            TokenLogprob(each.piece, each.logprob, tuple((top.piece, top.logprob) for top in each.top_logprobs[:most]))
            for each in found.content
        )
    tokens, values = found.tokens or [], found.token_logprobs or []
    tops = found.top_logprobs or [None] * len(tokens)
    return tuple(
        TokenLogprob(token.encode(), value or 0.0, tuple((piece.encode(), one) for piece, one in likely[:most]))
        for token, value, likely in zip(tokens, values, (list((top or {}).items()) for top in tops), strict=False)
    )
