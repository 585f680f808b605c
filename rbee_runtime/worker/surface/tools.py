"""Tools in OpenAI's chat: what a client may define and choose, and how a call is told."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from rbee_runtime.worker.engines import Tool, ToolCall, ToolChoice, Tools
from rbee_runtime.worker.surface.generation import invalid
from rbee_runtime.worker.surface.schemas import schema_text

MOST_TOOLS = 128
"""OpenAI's own limit."""

MOST_SCHEMA = 65536
"""Characters of one tool's parameters as JSON."""

_Name = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]


class CalledFunction(msgspec.Struct, frozen=True):
    """What an assistant called; `arguments` is JSON as text."""

    name: Annotated[str, msgspec.Meta(max_length=512)]
    arguments: str = "{}"


class CallBody(msgspec.Struct, frozen=True):
    """A call that an assistant asked for in an earlier turn."""

    function: CalledFunction
    id: Annotated[str, msgspec.Meta(max_length=512)] = ""
    type: Literal["function"] = "function"


class FunctionBody(msgspec.Struct, frozen=True):
    """A function that may be called."""

    name: _Name
    description: Annotated[str, msgspec.Meta(max_length=65536)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct, frozen=True):
    """A tool; functions are all that there is."""

    function: FunctionBody
    type: Literal["function"] = "function"


class NamedFunction(msgspec.Struct, frozen=True):
    """The function that must be called."""

    name: str


class NamedChoice(msgspec.Struct, frozen=True):
    """`tool_choice` that names a function."""

    function: NamedFunction
    type: Literal["function"] = "function"


def tools_of(bodies: Sequence[ToolBody], choice: str | NamedChoice | None, *, several: bool) -> Tools:
    """Return the tools of a request or raise RequestError (400)."""
    tools = tuple(_tool(body.function, index) for index, body in enumerate(bodies))
    only = choice.function.name if isinstance(choice, NamedChoice) else ""
    if only and only not in {tool.name for tool in tools}:
        raise invalid(f"tool_choice: there is no tool {only[:64]!r} in this request", "tool_choice")
    wanted = ToolChoice.REQUIRED if only else ToolChoice(choice if isinstance(choice, str) else ToolChoice.AUTO)
    if wanted is ToolChoice.REQUIRED and not tools:
        raise invalid("tool_choice: a call is required, but the request has no tools", "tool_choice")
    return Tools(tools, wanted, only, several) if tools else Tools()


def _tool(function: FunctionBody, index: int) -> Tool:
    tool = Tool(function.name, function.description or "")
    if function.parameters is None:
        return tool
    parameters = schema_text(function.parameters, f"tools[{index}].function.parameters", most=MOST_SCHEMA)
    return Tool(function.name, function.description or "", parameters)


def told_call(called: ToolCall) -> dict[str, Any]:
    """Return a call as OpenAI tells it."""
    return {
        "id": called.id,
        "type": "function",
        "function": {"name": called.name, "arguments": called.arguments},
    }
