"""OpenAI's completions: text that goes on, without any chat template."""

import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any

import msgspec

from rbee_runtime.gateway.body import COMPLETION_TOKENS
from rbee_runtime.worker.engines import Delta, Engine, Generation, TextRequest, TokenLogprob, Usage
from rbee_runtime.worker.surface.events import Template, event
from rbee_runtime.worker.surface.generation import (
    MAX_N,
    GenerationBody,
    decode,
    generation_of,
    invalid,
    unsupported,
)
from rbee_runtime.worker.surface.shapes import DONE, Call, Choice, Item, text_of, usage_of

_Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Texts = Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_N)]
_Tokens = Annotated[list[_Token], msgspec.Meta(min_length=1)]
_SeveralTokens = Annotated[list[_Tokens], msgspec.Meta(min_length=1, max_length=MAX_N)]


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    """`POST /v1/completions`; the prompt is a text, token ids, or several of either."""

    prompt: str | list[Any]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1, le=MAX_N)] | None = None
    suffix: str | None = None


_decoder = msgspec.json.Decoder(CompletionBody)


def parse(raw: bytes) -> Call:
    """Return the call in a request body or raise RequestError (400) naming the field."""
    body = decode(raw, _decoder)
    _refuse_what_is_not_served(body)
    prompts = _prompts(body.prompt)
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    generation = generation_of(body, max_tokens=limit, logprobs=body.logprobs)
    echoed = tuple(prompt for prompt in prompts if isinstance(prompt, str)) if body.echo else ()
    if body.echo and len(echoed) != len(prompts):
        raise unsupported("echo", "token ids are not given back as text; send the prompt as text")
    return Call(
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        choices=len(prompts) * generation.choices,
        shape=TextAnswer(body.model),
        ask=lambda engine: _answers(engine, prompts, generation, echoed),
    )


def _refuse_what_is_not_served(body: CompletionBody) -> None:
    if body.suffix:
        raise unsupported("suffix", "this engine only goes on with a text, it does not fill gaps")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise unsupported("best_of", "this engine gives every answer that it makes; ask for them with n")
    if isinstance(body.prompt, list) and (body.n or 1) * len(body.prompt) > MAX_N and _several(body.prompt):
        raise invalid(f"prompt: at most {MAX_N} answers per request, prompts times n", "prompt")


def _several(prompt: list[Any]) -> bool:
    return not all(isinstance(each, int) for each in prompt)


def _prompts(prompt: str | list[Any]) -> list[str | tuple[int, ...]]:
    if isinstance(prompt, str):
        return [prompt]
    with suppress(msgspec.ValidationError):
        return [tuple(msgspec.convert(prompt, _Tokens))]
    with suppress(msgspec.ValidationError):
        return list(msgspec.convert(prompt, _Texts))
    with suppress(msgspec.ValidationError):
        return [tuple(each) for each in msgspec.convert(prompt, _SeveralTokens)]
    raise invalid(
        f"prompt: it is a text, a list of token ids, or a list of at most {MAX_N} texts or lists of token ids", "prompt"
    )


async def _answers(
    engine: Engine, prompts: Sequence[str | tuple[int, ...]], generation: Generation, echoed: Sequence[str]
) -> AsyncGenerator[Delta, None]:
    """Yield the answers to each prompt, one prompt after the other, and the sum of what they used at the end."""
    total = Usage(0, 0)
    for number, prompt in enumerate(prompts):
        first = number * generation.choices
        for choice in range(generation.choices if echoed else 0):
            yield Delta(echoed[number], choice=first + choice)
        async with aclosing(engine.complete(TextRequest(prompt, generation))) as deltas:
            async for delta in deltas:
                usage = delta.usage
                total += usage or Usage(0, 0)
                last = usage is not None and number == len(prompts) - 1
                yield msgspec.structs.replace(delta, choice=first + delta.choice, usage=total if last else None)


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """Identity of one answer: the same `id` and `created` (Unix seconds) in every chunk."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _sent: Counter[int] = field(default_factory=Counter)
    _plain: dict[int, Template] = field(default_factory=dict)

    def opening(self, choice: int) -> None:
        """Return nothing: text begins at once."""

    def piece(self, delta: Delta) -> Item:
        """Return one event of a stream."""
        begin = self._sent[delta.choice]
        self._sent[delta.choice] += len(delta.text)
        if delta.logprobs:
            return self._piece(delta.choice, delta.text, delta.logprobs, begin)
        template = self._plain.get(delta.choice)
        if template is None:
            template = self._plain[delta.choice] = Template(lambda text: event(self._piece(delta.choice, text)))
        return template.filled(delta.text)

    def ending(self, delta: Delta) -> dict[str, Any]:
        """Return the last event of a choice."""
        return self._body([_choice(delta.choice, "", (), delta.finish)])

    def closing(self, usage: Usage, *, told: bool) -> tuple[Item, ...]:
        """Return the count, in an event without choices if it was asked for, and the last word."""
        count = self._body([]) | {"usage": usage_of(usage)}
        return (count, DONE) if told else (DONE,)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the answer that is no stream."""
        listed = [_whole(index, choice) for index, choice in enumerate(choices)]
        return self._body(listed) | {"usage": usage_of(usage)}

    def _piece(self, choice: int, text: str, logprobs: Sequence[TokenLogprob] = (), begin: int = 0) -> dict[str, Any]:
        return self._body([_choice(choice, text, logprobs, None, begin)])

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _whole(index: int, choice: Choice) -> dict[str, Any]:
    text = "".join(choice.texts)
    # What stands before the first token was echoed.
    begin = len(text) - sum(len(text_of(each.piece)) for each in choice.logprobs)
    return _choice(index, text, choice.logprobs, choice.finish, max(0, begin))


def _choice(index: int, text: str, logprobs: Sequence[TokenLogprob], finish: Any, begin: int = 0) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": _logprobs(logprobs, begin), "finish_reason": finish}


def _logprobs(found: Sequence[TokenLogprob], begin: int) -> dict[str, Any] | None:
    """Return OpenAI's lists; offsets count characters of the whole text, in which the first token is at `begin`."""
    if not found:
        return None
    tokens = [text_of(each.piece) for each in found]
    return {
        "tokens": tokens,
        "token_logprobs": [each.logprob for each in found],
        "top_logprobs": [{text_of(piece): value for piece, value in each.top} for each in found],
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=begin)),
    }
