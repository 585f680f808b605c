"""Anthropic's messages: bounds on what comes in, builders of what goes out."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from rbee_runtime.gateway.routes import anthropic_error
from rbee_runtime.worker.engines import (
    ChatRequest,
    Delta,
    Finish,
    Generation,
    Message,
    Picture,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    Tools,
    Usage,
)
from rbee_runtime.worker.engines.thoughts import THINKS
from rbee_runtime.worker.surface.events import named_event
from rbee_runtime.worker.surface.exchange import Exchange, demand_model
from rbee_runtime.worker.surface.generation import decoded, invalid, unsupported
from rbee_runtime.worker.surface.pictures import demand_few, demand_small, from_base64, split
from rbee_runtime.worker.surface.reply import Reply
from rbee_runtime.worker.surface.schemas import schema_text
from rbee_runtime.worker.surface.shapes import Call, Choice, Item
from rbee_runtime.worker.surface.thinking import Option
from rbee_runtime.worker.surface.tools import MOST_SCHEMA, MOST_TOOLS

_Text = Annotated[str, msgspec.Meta(max_length=10_000_000)]
_Name = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]
_Id = Annotated[str, msgspec.Meta(max_length=512)]


class PictureSource(msgspec.Struct, frozen=True):
    """Where a picture is; only `base64` is read."""

    type: str
    data: str = ""


class Block(msgspec.Struct, frozen=True):
    """One block of content: the fields that its `type` has."""

    type: str
    text: _Text = ""
    id: _Id = ""
    name: Annotated[str, msgspec.Meta(max_length=512)] = ""
    input: dict[str, Any] | None = None
    tool_use_id: _Id = ""
    content: "str | list[Block] | None" = None
    source: PictureSource | None = None
    thinking: _Text = ""


_Blocks = Annotated[list[Block], msgspec.Meta(max_length=1024)]


class Turn(msgspec.Struct, frozen=True):
    """One message as it comes in."""

    role: Literal["user", "assistant", "system"]
    content: _Text | _Blocks


class ToolBody(msgspec.Struct, frozen=True):
    """A tool; `type` says that it is one of the client's own, if anything."""

    name: _Name
    description: Annotated[str, msgspec.Meta(max_length=65536)] = ""
    input_schema: dict[str, Any] | None = None
    type: str | None = None


class Chosen(msgspec.Struct, frozen=True):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class Thinking(msgspec.Struct, frozen=True):
    """`thinking`."""

    type: str


class OutputFormat(msgspec.Struct, frozen=True):
    """`output_config.format`."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct, frozen=True):
    """`output_config`; how much effort a model makes is its own affair here."""

    format: OutputFormat | None = None


class MessagesBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/messages`; `max_tokens` is None for a count alone."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    system: _Text | _Blocks = ""
    stream: bool = False
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    stop_sequences: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=512)]], msgspec.Meta(max_length=4)
    ] = []
    tools: Annotated[list[ToolBody], msgspec.Meta(max_length=MOST_TOOLS)] = []
    tool_choice: Chosen | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


_decoder = msgspec.json.Decoder(MessagesBody)


def parse(raw: bytes) -> Call:
    """Return the call in a request body or raise RequestError (400) naming the field."""
    body = decoded(raw, _decoder)
    if body.max_tokens is None:
        raise invalid("max_tokens: required", "max_tokens")
    request = request_of(body)
    return Call(
        model=body.model,
        stream=body.stream,
        include_usage=True,
        choices=1,
        shape=MessageAnswer(body.model),
        ask=lambda engine: engine.chat(request),
    )


def request_of(body: MessagesBody) -> ChatRequest:
    """Return what the engine is asked for."""
    system, seen = split(_parts(body.system, "system"))
    if seen:
        raise unsupported("system", "pictures belong into messages of users")
    demand_few(_kinds(body), "image")
    turns = [message for index, turn in enumerate(body.messages) for message in _messages(turn, f"messages[{index}]")]
    sampling = Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
    generation = Generation(max_tokens=body.max_tokens, stop=tuple(body.stop_sequences), sampling=sampling)
    messages = (*((Message("system", system),) if system else ()), *turns)
    demand_small(messages)
    tools, schema = _tools(body), _schema(body.output_config)
    if schema and tools.offered:
        raise unsupported("output_config", "an answer is held to one of a schema and tools at a time")
    return ChatRequest(messages, generation, tools, schema, _template(body))


def _template(body: MessagesBody) -> tuple[tuple[str, Option], ...]:
    """Return what the chat template is told of thinking: nothing where the model is to decide."""
    kind = body.thinking.type if body.thinking is not None else "adaptive"
    return ((THINKS, kind == "enabled"),) if kind != "adaptive" else ()


def _schema(config: OutputConfig | None) -> str:
    form = config.format if config is not None else None
    if form is None:
        return ""
    if form.type != "json_schema" or form.schema is None:
        raise invalid("output_config.format: a json_schema with its schema is all that there is", "output_config")
    return schema_text(form.schema, "output_config.format.schema", param="output_config")


def _messages(turn: Turn, where: str) -> Iterator[Message]:
    """Yield a turn as OpenAI has it: answers of tools are turns of their own, before what else is said."""
    if isinstance(turn.content, str):
        yield Message(turn.role, turn.content)
        return
    calls = [_call(block) for block in turn.content if block.type == "tool_use"]
    results = [block for block in turn.content if block.type == "tool_result"]
    if (calls and turn.role != "assistant") or (results and turn.role != "user"):
        raise invalid(f"{where}: an assistant uses tools and a user tells their results", where)
    for block in results:
        content, parts = split(_parts(block.content or "", where))
        yield Message("tool", content, call=block.tool_use_id, parts=parts)
    rest = [block for block in turn.content if block.type not in ("tool_use", "tool_result")]
    if rest or calls or not results:
        content, parts = split(_parts(rest, where))
        thought = "".join(block.thinking for block in rest if block.type == "thinking")
        yield Message(turn.role, content, tuple(calls), parts=parts, thought=thought)


def _call(block: Block) -> ToolCall:
    return ToolCall(block.id, block.name, msgspec.json.encode(block.input or {}).decode())


def _parts(content: str | Sequence[Block], where: str) -> Iterator[str | Picture]:
    """Yield the texts and pictures of blocks; thoughts are none of them."""
    if isinstance(content, str):
        yield content
        return
    for block in content:
        if block.type == "text":
            yield block.text
        elif block.type == "image":
            yield _picture(block.source, where)
        elif block.type not in ("thinking", "redacted_thinking"):
            raise unsupported(where, f"models take text and pictures, not {block.type[:40]!r}")


def _kinds(body: MessagesBody) -> Iterator[str]:
    blocks = [block for turn in body.messages if isinstance(turn.content, list) for block in turn.content]
    yield from (block.type for block in blocks)
    yield from (inner.type for block in blocks if isinstance(block.content, list) for inner in block.content)


def _picture(source: PictureSource | None, where: str) -> Picture:
    if source is None or source.type != "base64":
        raise unsupported(where, "a picture is sent within the request, as base64; none is fetched")
    return from_base64(source.data, where)


def _tools(body: MessagesBody) -> Tools:
    if not body.tools:
        return Tools()
    tools = tuple(_tool(tool, index) for index, tool in enumerate(body.tools))
    chosen = body.tool_choice or Chosen("auto")
    if chosen.type == "tool" and chosen.name not in {tool.name for tool in tools}:
        raise invalid(f"tool_choice: there is no tool {chosen.name[:64]!r} in this request", "tool_choice")
    choice = {"none": ToolChoice.NONE, "auto": ToolChoice.AUTO}.get(chosen.type, ToolChoice.REQUIRED)
    only = chosen.name if chosen.type == "tool" else ""
    return Tools(tools, choice, only, several=not chosen.disable_parallel_tool_use)


def _tool(tool: ToolBody, index: int) -> Tool:
    if tool.type not in (None, "custom"):
        raise unsupported(f"tools[{index}]", f"tools of Anthropic's own, such as {tool.type[:40]!r}, are not served")
    given = tool.input_schema or {"type": "object", "properties": {}}
    return Tool(tool.name, tool.description, schema_text(given, f"tools[{index}].input_schema", most=MOST_SCHEMA))


_REASONS = {Finish.STOP: "end_turn", Finish.LENGTH: "max_tokens", Finish.TOOL_CALLS: "tool_use"}


@dataclass(slots=True)
class MessageAnswer:
    """One answer; its blocks are numbered as they begin."""

    model: str
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex[:24]}")
    _blocks: int = 0
    _open: str = ""
    _reason: str = "end_turn"

    def opening(self, choice: int) -> bytes:
        """Return the event that begins a message; how many tokens its prompt has comes with its end."""
        del choice
        message = self._message([], None, Usage(0, 0))
        return named_event("message_start", {"message": message})

    def piece(self, delta: Delta) -> bytes:
        """Return the events of a piece: a block of thoughts or text goes on, a call is a block of its own."""
        said = (*self._goes_on("thinking", delta.thought), *self._goes_on("text", delta.text))
        return b"".join((*said, *(event for call in delta.calls for event in self._called(call))))

    def ending(self, delta: Delta) -> bytes:
        """Return the end of the last block; why the message ended comes with its count."""
        self._reason = _REASONS[delta.finish or Finish.STOP]
        return b"".join(self._stop())

    def closing(self, usage: Usage, *, told: bool) -> tuple[Item, ...]:
        """Return the events that end a message."""
        del told
        delta = {"delta": {"stop_reason": self._reason, "stop_sequence": None}, "usage": _usage(usage)}
        return (named_event("message_delta", delta), named_event("message_stop", {}))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """Return a message."""
        (choice,) = choices
        text, thought = "".join(choice.texts), "".join(choice.thoughts)
        blocks: list[dict[str, Any]] = [_BLOCKS["thinking"] | {"thinking": thought}] if thought else []
        blocks += [_BLOCKS["text"] | {"text": text}] if text or not (choice.calls or thought) else []
        blocks += [{**_use(call), "input": _given(call)} for call in choice.calls]
        return self._message(blocks, _REASONS[choice.finish], usage)

    def _message(self, blocks: list[dict[str, Any]], reason: str | None, usage: Usage) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": _usage(usage),
        }

    def _goes_on(self, kind: str, text: str) -> Iterator[bytes]:
        if not text:
            return
        if self._open != kind:
            yield from self._stop()
            self._open = kind
            yield self._start(_BLOCKS[kind])
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _called(self, call: ToolCall) -> Iterator[bytes]:
        yield from self._stop()
        yield self._start({**_use(call), "input": {}})
        yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        self._open = "tool_use"
        yield from self._stop()

    def _start(self, block: dict[str, Any]) -> bytes:
        return named_event("content_block_start", {"index": self._blocks, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return named_event("content_block_delta", {"index": self._blocks, "delta": delta})

    def _stop(self) -> Iterator[bytes]:
        if self._open:
            yield named_event("content_block_stop", {"index": self._blocks})
            self._blocks += 1
            self._open = ""


_BLOCKS: Mapping[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
"""Empty blocks; nobody signs thoughts here."""


def _given(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments; what a model wrote that is no object is told as it is."""
    try:
        found = json.loads(call.arguments)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": call.arguments}


def _use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _usage(usage: Usage) -> dict[str, int]:
    """Return Anthropic's count, in which what was cached is no part of the input."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion,
    }


class CountRoute(Exchange):
    """`POST /v1/messages/count_tokens`."""

    refused = staticmethod(anthropic_error)

    async def answer(self, raw: bytes, reply: Reply) -> None:
        """Give the tokens that the prompt would have."""
        body = decoded(raw, _decoder)
        demand_model(self.worker, body.model)
        tokens = await self.worker.engine.prompt_tokens(request_of(body))
        await reply.json({"input_tokens": len(tokens)})
