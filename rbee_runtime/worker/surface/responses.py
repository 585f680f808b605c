"""OpenAI's responses, without anything kept between two of them: bounds on what comes in, builders of what goes out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from rbee_runtime.worker.engines import (
    ChatRequest,
    Delta,
    Finish,
    Generation,
    Message,
    Picture,
    Sampling,
    ToolCall,
    Usage,
)
from rbee_runtime.worker.surface.events import named_event
from rbee_runtime.worker.surface.generation import decoded, invalid, refuse_named, unsupported
from rbee_runtime.worker.surface.pictures import demand_few, demand_small, from_url, split
from rbee_runtime.worker.surface.response_items import SPEAKING, THINKING, Kind, new_id
from rbee_runtime.worker.surface.schemas import schema_text
from rbee_runtime.worker.surface.shapes import Call, Choice, Item
from rbee_runtime.worker.surface.thinking import Effort, template_of
from rbee_runtime.worker.surface.tools import (
    MOST_TOOLS,
    FunctionBody,
    NamedChoice,
    NamedFunction,
    ToolBody,
    tools_of,
)

_Id = Annotated[str, msgspec.Meta(max_length=512)]


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: str
    text: str = ""
    image_url: str | None = None


_Content = str | Annotated[list[Part], msgspec.Meta(max_length=1024)]


class Entry(msgspec.Struct, frozen=True):
    """One item of `input`: the fields that its `type` has."""

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = "message"
    role: Literal["user", "assistant", "system", "developer"] = "user"
    content: _Content | None = None
    call_id: _Id = ""
    name: Annotated[str, msgspec.Meta(max_length=512)] = ""
    arguments: str = "{}"
    output: _Content = ""


class FunctionTool(msgspec.Struct, frozen=True):
    """A tool: of functions the fields are beside its type."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Chosen(msgspec.Struct, frozen=True):
    """`tool_choice` that names a function."""

    name: str
    type: Literal["function"] = "function"


class Format(msgspec.Struct, frozen=True):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    schema: dict[str, Any] | None = None


class TextBody(msgspec.Struct, frozen=True):
    """`text`."""

    format: Format = Format()


class ReasoningBody(msgspec.Struct, frozen=True):
    """`reasoning`."""

    effort: Effort | None = None


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/responses`; None means that the field was null or absent."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    input: str | Annotated[list[Entry], msgspec.Meta(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    stream: bool | None = None
    tools: Annotated[list[FunctionTool], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Chosen | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    truncation: Literal["disabled", "auto"] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    top_logprobs: int | None = None


_decoder = msgspec.json.Decoder(ResponsesBody)


def parse(raw: bytes) -> Call:
    """Return the call in a request body or raise RequestError (400) naming the field."""
    body = decoded(raw, _decoder)
    request = request_of(body)
    return Call(
        model=body.model,
        stream=bool(body.stream),
        include_usage=True,
        choices=1,
        shape=ResponseAnswer(body),
        ask=lambda engine: engine.chat(request),
    )


def request_of(body: ResponsesBody) -> ChatRequest:
    """Return what the engine is asked for."""
    refuse_named(
        body,
        (
            ("previous_response_id", "answers that it would have to remember; send the conversation as input"),
            ("conversation", "conversations that it would have to remember; send them as input"),
            ("prompt", "prompts that are kept elsewhere; send the text"),
            ("background", "answers that nobody waits for"),
            ("top_logprobs", "log probabilities here; ask for them by /v1/chat/completions"),
        ),
    )
    if body.truncation == "auto":
        raise unsupported("truncation", "a conversation that is too long is refused, never cut in silence")
    tools = tools_of(
        [_tool(tool, index) for index, tool in enumerate(body.tools or ())],
        NamedChoice(NamedFunction(body.tool_choice.name)) if isinstance(body.tool_choice, Chosen) else body.tool_choice,
        several=body.parallel_tool_calls is not False,
    )
    schema = _schema(body.text or TextBody())
    if schema and tools.offered:
        raise unsupported("text.format", "an answer is held to one of a format and tools at a time")
    sampling = Sampling(temperature=body.temperature, top_p=body.top_p)
    generation = Generation(max_tokens=body.max_output_tokens, sampling=sampling)
    demand_few(_kinds(body), _SEEN)
    messages = tuple(_messages(body))
    demand_small(messages)
    template = template_of(body.reasoning.effort if body.reasoning is not None else None)
    return ChatRequest(messages, generation, tools, schema, template)


def _messages(body: ResponsesBody) -> Iterator[Message]:
    if body.instructions:
        yield Message("system", body.instructions)
    if isinstance(body.input, str):
        yield Message("user", body.input)
        return
    calls: list[ToolCall] = []
    thought = ""
    for index, entry in enumerate(body.input):
        if entry.type == "reasoning":
            thought = split(_parts(entry.content or "", f"input[{index}]"))[0]
            continue
        if entry.type == "function_call":
            calls.append(ToolCall(entry.call_id, entry.name, entry.arguments))
            continue
        if calls:
            # Calls of one turn are items of their own here, and one message elsewhere.
            yield Message("assistant", "", tuple(calls), thought=thought)
            calls, thought = [], ""
        yield from _message(entry, f"input[{index}]", thought)
        thought = ""
    if calls:
        yield Message("assistant", "", tuple(calls), thought=thought)


def _message(entry: Entry, where: str, thought: str) -> Iterator[Message]:
    if entry.type == "item_reference":
        raise unsupported(where, "this server keeps no items; send what it stands for")
    if entry.type == "function_call_output":
        content, parts = split(_parts(entry.output, where))
        yield Message("tool", content, call=entry.call_id, parts=parts)
    elif entry.type == "message":
        role = "system" if entry.role == "developer" else entry.role
        content, parts = split(_parts(entry.content or "", where))
        yield Message(role, content, parts=parts, thought=thought if role == "assistant" else "")


_SEEN = "input_image"


def _kinds(body: ResponsesBody) -> Iterator[str]:
    for entry in body.input if isinstance(body.input, list) else ():
        for content in (entry.content, entry.output):
            yield from (part.type for part in content) if isinstance(content, list) else ()


def _parts(content: _Content, where: str) -> Iterator[str | Picture]:
    if isinstance(content, str):
        yield content
        return
    for part in content:
        if part.type == _SEEN and part.image_url is not None:
            yield from_url(part.image_url, where)
        elif part.type in ("input_text", "output_text", "text", "reasoning_text"):
            yield part.text
        else:
            raise unsupported(where, f"models take text and pictures, not {part.type[:40]!r}")


def _tool(tool: FunctionTool, index: int) -> ToolBody:
    if tool.type != "function":
        raise unsupported(f"tools[{index}]", f"functions are served, tools of OpenAI's own like {tool.type[:40]!r} not")
    try:
        named = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        return ToolBody(msgspec.convert(named, FunctionBody))
    except msgspec.ValidationError as error:
        raise invalid(f"tools[{index}]: {error}", f"tools[{index}]") from error


def _schema(text: TextBody) -> str:
    if text.format.type == "text":
        return ""
    if text.format.type == "json_object":
        return '{"type":"object"}'
    if text.format.schema is None:
        raise invalid("text.format.schema: needed with type json_schema", "text.format")
    return schema_text(text.format.schema, "text.format.schema", param="text.format")


@dataclass(slots=True)
class ResponseAnswer:
    """One answer, whose items are gathered as they go out: the last event has them all."""

    body: ResponsesBody
    id: str = field(default_factory=lambda: new_id("resp"))
    created: int = field(default_factory=lambda: int(time.time()))
    _output: list[dict[str, Any]] = field(default_factory=list)
    _open: tuple[Kind, dict[str, Any]] | None = None
    _sequence: int = 0
    _cut: bool = False

    def opening(self, choice: int) -> bytes:
        """Return the events that begin a response."""
        del choice
        response = {"response": self._response("in_progress", None)}
        return self._event("response.created", response) + self._event("response.in_progress", response)

    def piece(self, delta: Delta) -> bytes:
        """Return the events of a piece: thoughts or a message go on, a call is an item of its own."""
        said = (*self._goes_on(THINKING, delta.thought), *self._goes_on(SPEAKING, delta.text))
        return b"".join((*said, *(event for call in delta.calls for event in self._called(call))))

    def ending(self, delta: Delta) -> bytes:
        """Return the end of the message that is open."""
        self._cut = delta.finish is Finish.LENGTH
        return b"".join(self._silent())

    def closing(self, usage: Usage, *, told: bool) -> tuple[Item, ...]:
        """Return the event with the whole response."""
        del told
        status = "incomplete" if self._cut else "completed"
        return (self._event(f"response.{status}", {"response": self._response(status, usage)}),)

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Mapping[str, Any]:
        """Return a response."""
        (choice,) = choices
        text, thought = "".join(choice.texts), "".join(choice.thoughts)
        if thought:
            self._output.append(THINKING.item(thought, "completed"))
        if text or not (choice.calls or thought):
            self._output.append(SPEAKING.item(text, "completed"))
        self._output += [_call(call, "completed") for call in choice.calls]
        self._cut = choice.finish is Finish.LENGTH
        return self._response("incomplete" if self._cut else "completed", usage)

    def _goes_on(self, kind: Kind, text: str) -> Iterator[bytes]:
        if not text:
            return
        if self._open is None or self._open[0] is not kind:
            yield from self._silent()
            item = kind.item("", "in_progress")
            self._open = (kind, item)
            yield self._event("response.output_item.added", self._place() | {"item": item | {"content": []}})
            yield self._event("response.content_part.added", self._content(item) | {"part": kind.part("")})
        item = self._open[1]
        item["content"][0]["text"] += text
        yield self._event(f"response.{kind.text}.delta", self._content(item) | {"delta": text} | kind.more)

    def _silent(self) -> Iterator[bytes]:
        if self._open is None:
            return
        kind, item = self._open
        said = item["content"][0]["text"]
        item |= {"status": "completed"}
        yield self._event(f"response.{kind.text}.done", self._content(item) | {"text": said} | kind.more)
        yield self._event("response.content_part.done", self._content(item) | {"part": kind.part(said)})
        yield self._event("response.output_item.done", self._place() | {"item": item})
        self._output.append(item)
        self._open = None

    def _called(self, call: ToolCall) -> Iterator[bytes]:
        yield from self._silent()
        item = _call(call, "in_progress")
        about = self._place() | {"item_id": item["id"]}
        yield self._event("response.output_item.added", self._place() | {"item": item | {"arguments": ""}})
        yield self._event("response.function_call_arguments.delta", about | {"delta": call.arguments})
        done = about | {"arguments": call.arguments, "name": call.name}
        yield self._event("response.function_call_arguments.done", done)
        item["status"] = "completed"
        yield self._event("response.output_item.done", self._place() | {"item": item})
        self._output.append(item)

    def _place(self) -> dict[str, Any]:
        return {"output_index": len(self._output)}

    def _content(self, item: dict[str, Any]) -> dict[str, Any]:
        return self._place() | {"item_id": item["id"], "content_index": 0}

    def _event(self, name: str, item: dict[str, Any]) -> bytes:
        self._sequence += 1
        return named_event(name, {"sequence_number": self._sequence - 1, **item})

    def _response(self, status: str, usage: Usage | None) -> dict[str, Any]:
        body = self.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": self._output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning is not None else None, "summary": None},
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": (body.text or TextBody()).format.type}},
            "tool_choice": body.tool_choice if body.tool_choice is not None else "auto",
            "tools": body.tools or [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": _usage(usage) if usage is not None else None,
            "metadata": {},
        }


def _call(call: ToolCall, status: str) -> dict[str, Any]:
    about = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"type": "function_call", "id": new_id("fc"), "status": status, **about}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.thought},
        "total_tokens": usage.prompt + usage.completion,
    }
