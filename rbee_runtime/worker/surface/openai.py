"""OpenAI's chat: bounds on what comes in, builders of what goes out."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from rbee_runtime.worker.engines import ChatRequest, Delta, Message, Picture, TokenLogprob, ToolCall, Usage
from rbee_runtime.worker.surface.events import Template, event
from rbee_runtime.worker.surface.generation import (
    MAX_LOGPROBS,
    GenerationBody,
    decode,
    generation_of,
    invalid,
    refuse_named,
    unsupported,
)
from rbee_runtime.worker.surface.pictures import demand_few, demand_small, from_url, split
from rbee_runtime.worker.surface.schemas import schema_text
from rbee_runtime.worker.surface.shapes import DONE, Call, Choice, Item, text_of, usage_of
from rbee_runtime.worker.surface.thinking import Effort, TemplateOptions, template_of
from rbee_runtime.worker.surface.tools import MOST_TOOLS, CallBody, NamedChoice, ToolBody, told_call, tools_of


class PictureUrl(msgspec.Struct, frozen=True):
    """`image_url`; how closely a picture is looked at (`detail`) is the model's own affair."""

    url: str


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content: a text or a picture."""

    type: str
    text: str = ""
    image_url: PictureUrl | None = None


class Turn(msgspec.Struct, frozen=True):
    """One message as it comes in."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], msgspec.Meta(max_length=1024)] | None = None
    tool_calls: Annotated[list[CallBody], msgspec.Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    name: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    reasoning_content: str | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """`response_format.json_schema`."""

    schema: dict[str, Any]
    name: str = ""
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`.

    `continue_final_message` and `add_generation_prompt` are not OpenAI's but vLLM's.
    """

    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolBody], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Any], msgspec.Meta(max_length=1024)] | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


_decoder = msgspec.json.Decoder(ChatBody)


def parse(raw: bytes) -> Call:
    """Return the call in a request body or raise RequestError (400) naming the field."""
    body = decode(raw, _decoder)
    request = request_of(body)
    return Call(
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        choices=request.generation.choices,
        shape=ChatAnswer(body.model),
        ask=lambda engine: engine.chat(request),
        continues=request.continues,
    )


def request_of(body: ChatBody) -> ChatRequest:
    """Return what the engine is asked for."""
    refuse_named(body, (("functions", "functions of the older form; send them as tools"),))
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs: only allowed when logprobs is true", "top_logprobs")
    schema = _schema(body.response_format or ResponseFormat())
    found = tools_of(body.tools or (), body.tool_choice, several=body.parallel_tool_calls is not False)
    if sum((bool(schema), found.offered, bool(body.grammar))) > 1:
        raise unsupported("response_format", "an answer is held to one of response_format, tools and grammar at a time")
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    top = (body.top_logprobs or 0) if body.logprobs else None
    demand_few((part.type for turn in body.messages if isinstance(turn.content, list) for part in turn.content), _SEEN)
    messages = tuple(_message(turn, index) for index, turn in enumerate(body.messages))
    demand_small(messages)
    held = found.offered or bool(schema or body.grammar)
    return ChatRequest(
        messages,
        generation_of(body, max_tokens=limit, logprobs=top),
        found,
        schema,
        template_of(body.reasoning_effort, body.chat_template_kwargs),
        continues=_continues(body, messages[-1], held=held),
    )


def _continues(body: ChatBody, last: Message, *, held: bool) -> bool:
    """Say whether the answer is the rest of the last message, or raise RequestError (400)."""
    field = "continue_final_message"
    if not body.continue_final_message:
        if body.add_generation_prompt is False:
            raise unsupported("add_generation_prompt", f"false is only taken together with {field}")
        return False
    if body.add_generation_prompt is not False:
        raise invalid(f"{field}: only allowed when add_generation_prompt is false", field)
    if last.role != "assistant" or last.calls or last.parts or not last.content:
        raise invalid(f"{field}: the last message has to be an assistant's text", field)
    if held:
        raise unsupported(field, "an answer that is held to tools, response_format or grammar begins anew")
    return True


def _schema(form: ResponseFormat) -> str:
    if form.type == "json_object":
        return '{"type":"object"}'
    if form.type == "text":
        return ""
    if form.json_schema is None:
        raise invalid("response_format.json_schema: needed with type json_schema", "response_format")
    return schema_text(form.json_schema.schema, "response_format.json_schema.schema", param="response_format")


def _message(turn: Turn, index: int) -> Message:
    # Models know the older name of the role only.
    role = "system" if turn.role == "developer" else turn.role
    calls = tuple(ToolCall(each.id, each.function.name, each.function.arguments) for each in turn.tool_calls or ())
    if calls and role != "assistant":
        raise invalid(f"messages[{index}].tool_calls: only an assistant calls tools", f"messages[{index}].tool_calls")
    content, parts = split(_parts(turn, f"messages[{index}].content"))
    return Message(role, content, calls, turn.tool_call_id or "", turn.name or "", parts, turn.reasoning_content or "")


_SEEN = "image_url"


def _parts(turn: Turn, where: str) -> Iterator[str | Picture]:
    if not isinstance(turn.content, list):
        yield turn.content or ""
        return
    for part in turn.content:
        if part.type == _SEEN and part.image_url is not None:
            yield from_url(part.image_url.url, where)
        elif part.type == "text":
            yield part.text
        else:
            raise unsupported(where, f"models take text and pictures, not {part.type[:40]!r}")


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """Identity of one answer: the same `id` and `created` (Unix seconds) in every chunk."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _called: Counter[int] = field(default_factory=Counter)
    _plain: dict[int, Template] = field(default_factory=dict)

    def opening(self, choice: int) -> dict[str, Any]:
        """Return the chunk that says who speaks."""
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def piece(self, delta: Delta) -> Item:
        """Return one `chat.completion.chunk`."""
        if delta.logprobs or delta.calls or delta.thought:
            return self._rich(delta)
        template = self._plain.get(delta.choice)
        if template is None:
            template = Template(lambda text: event(self._chunk(delta.choice, {"content": text})))
            self._plain[delta.choice] = template
        return template.filled(delta.text)

    def _rich(self, delta: Delta) -> dict[str, Any]:
        said: dict[str, Any] = {"content": delta.text} if delta.text or delta.logprobs else {}
        if delta.thought:
            said["reasoning_content"] = delta.thought
        if delta.calls:
            first = self._called[delta.choice]
            self._called[delta.choice] += len(delta.calls)
            said["tool_calls"] = [{"index": first + i, **told_call(each)} for i, each in enumerate(delta.calls)]
        return self._chunk(delta.choice, said, logprobs=_logprobs(delta.logprobs))

    def ending(self, delta: Delta) -> dict[str, Any]:
        """Return the last chunk of a choice."""
        return self._chunk(delta.choice, {}, finish=delta.finish)

    def closing(self, usage: Usage, *, told: bool) -> tuple[Item, ...]:
        """Return the count, in an event without choices if it was asked for, and the last word."""
        count = self._head("chat.completion.chunk") | {"choices": [], "usage": usage_of(usage)}
        return (count, DONE) if told else (DONE,)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return one `chat.completion`."""
        listed = [
            {
                "index": index,
                "message": _spoken(choice),
                "logprobs": _logprobs(choice.logprobs),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return self._head("chat.completion") | {"choices": listed, "usage": usage_of(usage)}

    def _chunk(self, choice: int, delta: dict[str, Any], *, finish: Any = None, logprobs: Any = None) -> dict[str, Any]:
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [entry]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _spoken(choice: Choice) -> dict[str, Any]:
    text = "".join(choice.texts)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if thought := "".join(choice.thoughts):
        message["reasoning_content"] = thought
    if choice.calls:
        message |= {"content": text or None, "tool_calls": [told_call(each) for each in choice.calls]}
    return message


def _logprobs(found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not found:
        return None
    content = [
        _token(each.piece, each.logprob) | {"top_logprobs": [_token(piece, value) for piece, value in each.top]}
        for each in found
    ]
    return {"content": content, "refusal": None}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text_of(piece), "logprob": logprob, "bytes": list(piece)}


def model_list(name: str, created: int) -> dict[str, Any]:
    """Return `GET /v1/models` for one model."""
    entry = {"id": name, "object": "model", "created": created, "owned_by": "rbee"}
    return {"object": "list", "data": [entry]}
