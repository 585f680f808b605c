"""OpenAI's chat request and answer shapes: bounds on what comes in, builders of what goes out.

Unknown fields are ignored. A known field that would change the answer but is not served is refused, so that nobody
gets prose where they asked for a schema.
"""

import time
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import ChatRequest, Finish, Message, Usage

MAX_N = 8
"""vLLM had a denial of service by a large `n`; OpenAI's own limit is 128."""

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: str
    text: str = ""


class Turn(msgspec.Struct, frozen=True):
    """One message as it comes in."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], msgspec.Meta(max_length=1024)] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct, frozen=True):
    """`POST /v1/chat/completions`; None means the field was null or absent."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_N)] | None = None
    stop: _Stop | Annotated[list[_Stop], msgspec.Meta(max_length=4)] | None = None
    seed: _Seed | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[Any], msgspec.Meta(max_length=1024)] | None = None
    functions: Annotated[list[Any], msgspec.Meta(max_length=1024)] | None = None


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A request that this worker can serve: what to answer and in which form."""

    model: str
    request: ChatRequest
    stream: bool
    include_usage: bool


_decoder = msgspec.json.Decoder(ChatBody)


def parse(raw: bytes) -> ChatCall:
    """Return the call in a request body or raise RequestError (400) naming the field."""
    try:
        body = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".") or None
        raise _invalid(f"{param}: {message}" if param else message, param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the request body is not JSON: {error}", None) from error
    _refuse_what_is_not_served(body)
    return ChatCall(
        model=body.model,
        request=_request(body),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _refuse_what_is_not_served(body: ChatBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise _invalid("stream_options: only allowed when stream is true", "stream_options")
    if (body.response_format or {}).get("type", "text") != "text":
        raise _unsupported("response_format", "this engine answers plain text only")
    if body.n is not None and body.n > 1:
        raise _unsupported("n", "this engine gives one choice per request; send the request several times instead")
    for name, what in (("tools", "tool calls"), ("functions", "function calls"), ("logit_bias", "token biases")):
        if getattr(body, name):
            raise _unsupported(name, f"this engine does not support {what}")
    if body.logprobs:
        raise _unsupported("logprobs", "this engine does not return log probabilities")


def _request(body: ChatBody) -> ChatRequest:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return ChatRequest(
        messages=tuple(_message(turn, index) for index, turn in enumerate(body.messages)),
        max_tokens=body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        stop=stop,
        seed=body.seed,
    )


def _message(turn: Turn, index: int) -> Message:
    # Models know the older name of the role only.
    role = "system" if turn.role == "developer" else turn.role
    if not isinstance(turn.content, list):
        return Message(role, turn.content or "")
    other = next((part.type for part in turn.content if part.type != "text"), None)
    if other is not None:
        raise _unsupported(f"messages[{index}].content", f"this model takes text only, not {other[:40]!r}")
    return Message(role, "".join(part.text for part in turn.content))


def _invalid(message: str, param: str | None) -> RequestError:
    return RequestError(400, message, param=param)


def _unsupported(param: str, message: str) -> RequestError:
    return RequestError(400, f"{param}: {message}", code="unsupported_parameter", param=param)


@dataclass(frozen=True, slots=True)
class Answer:
    """Identity of one answer: the same `id` and `created` (Unix seconds) in every chunk."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, str], finish: Finish | None = None) -> dict[str, Any]:
        """Return one `chat.completion.chunk`."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk without choices that `include_usage` asks for."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage_of(usage)}

    def whole(self, text: str, finish: Finish, usage: Usage) -> dict[str, Any]:
        """Return one `chat.completion`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion") | {"choices": [choice], "usage": usage_of(usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def model_list(name: str, created: int) -> dict[str, Any]:
    """Return `GET /v1/models` for one model."""
    entry = {"id": name, "object": "model", "created": created, "owned_by": "rbee"}
    return {"object": "list", "data": [entry]}
