"""Tools in OpenAI's chat: what is taken, what is refused, how calls are told."""

import json
from typing import Any

import msgspec
import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Delta, Finish, Message, Tool, ToolCall, ToolChoice, Tools, Usage
from rbee_runtime.worker.surface.openai import ChatAnswer, ChatBody, request_of
from rbee_runtime.worker.surface.shapes import Choice
from tests.unit.worker.serving import event_of

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def tool(name: str = "weather", **function: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def asked(*tools: dict[str, Any], messages: list[Any] | None = None, **fields: object) -> Any:
    body = {"model": "m", "messages": messages or [USER], "tools": tools, **fields}
    return request_of(msgspec.json.decode(json.dumps(body).encode(), type=ChatBody))


def test_a_tool_reaches_the_engine() -> None:
    """Name, description and schema are what the client defined."""
    found = asked(tool(description="of a city", parameters=SCHEMA), tool("now")).tools
    assert found.tools[0] == Tool("weather", "of a city", '{"type":"object","properties":{"city":{"type":"string"}}}')
    assert found.tools[1].name == "now"
    assert json.loads(found.tools[1].parameters)["type"] == "object"


@pytest.mark.parametrize(
    ("fields", "choice", "only", "several"),
    [
        ({}, ToolChoice.AUTO, "", True),
        ({"tool_choice": None}, ToolChoice.AUTO, "", True),
        ({"tool_choice": "none"}, ToolChoice.NONE, "", True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ToolChoice.REQUIRED, "", False),
        ({"tool_choice": tool()}, ToolChoice.REQUIRED, "weather", True),
    ],
)
def test_the_choice_reaches_the_engine(fields: dict[str, Any], choice: str, only: str, several: bool) -> None:
    """All four forms of tool_choice, and whether there may be several calls."""
    found = asked(tool(), **fields).tools
    assert (found.choice, found.only, found.several) == (choice, only, several)


def test_without_tools_there_is_no_choice() -> None:
    """A client that always sends `auto` gets plain text."""
    assert asked(tool_choice="auto").tools == Tools()


@pytest.mark.parametrize(
    ("tools", "fields", "param"),
    [
        ([tool("bad name")], {}, "tools[0].function.name"),
        ([tool("x" * 65)], {}, "tools[0].function.name"),
        ([tool()], {"tool_choice": tool("other")}, "tool_choice"),
        ([], {"tool_choice": "required"}, "tool_choice"),
        ([tool(parameters={"description": "x" * 65536})], {}, "tools[0].function.parameters"),
        ([tool()] * 129, {}, "tools"),
    ],
)
def test_what_is_no_tool_is_a_400_with_its_place(tools: list[Any], fields: dict[str, Any], param: str) -> None:
    """Names have the letters that OpenAI allows, a choice names a tool that is there, schemas have a bound."""
    with pytest.raises((RequestError, msgspec.ValidationError)) as refusal:
        asked(*tools, **fields)
    assert param in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"grammar": 'root ::= "x"'},
        {"tool_choice": "required", "response_format": {"type": "json_object"}},
    ],
)
def test_two_forms_at_a_time_are_refused(fields: dict[str, Any]) -> None:
    """An answer cannot be a call and fit a schema; neither wish is dropped in silence."""
    with pytest.raises(RequestError, match="one of response_format, tools and grammar"):
        asked(tool(), **fields)
    assert asked(tool(), tool_choice="none", response_format={"type": "json_object"}).schema == '{"type":"object"}'


def test_a_conversation_with_calls_reaches_the_engine() -> None:
    """Calls of an assistant and the answers of tools keep their ids."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert asked(tool(), messages=turns).messages[1:] == (
        Message("assistant", "", (ToolCall("c1", "weather", '{"city": "Rome"}'),)),
        Message("tool", "sunny", call="c1"),
    )


def test_only_an_assistant_calls() -> None:
    """A user turn with calls is a mistake, and its place is named."""
    call = {"id": "c1", "type": "function", "function": {"name": "x"}}
    with pytest.raises(RequestError, match=r"messages\[0\].tool_calls"):
        asked(messages=[{**USER, "tool_calls": [call]}])


def test_calls_are_told_in_openais_shape() -> None:
    """Content is null beside calls alone; in a stream each call has its own number."""
    first, second = ToolCall("a", "weather", "{}"), ToolCall("b", "now", "{}")
    answer = ChatAnswer("m")
    whole = answer.whole([Choice([], calls=[first], finish=Finish.TOOL_CALLS)], Usage(1, 1))["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == (None, "tool_calls")
    assert whole["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    events = [
        event_of(answer.piece(Delta(calls=(each,))))["choices"][0]["delta"]["tool_calls"][0] for each in (first, second)
    ]
    assert [(each["index"], each["id"]) for each in events] == [(0, "a"), (1, "b")]
