"""`/v1/messages` and its count: of the scripted engine, and by Anthropic's own client of a real model."""

from pathlib import Path
from typing import Any

import anthropic
import msgspec
import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.routes import anthropic_error
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines import Delta, Finish, Message, ToolCall, ToolChoice, Usage
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from rbee_runtime.worker.surface.anthropic import MessageAnswer, MessagesBody, request_of
from rbee_runtime.worker.surface.shapes import Choice
from tests.unit.worker.serving import MODEL, TOKEN, served

HI = [{"role": "user", "content": "hi there"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
TOOL = {"name": "get_weather", "input_schema": CITY}


def read(**fields: Any) -> Any:
    body = {"model": MODEL, "max_tokens": 5, "messages": HI, **fields}
    return request_of(msgspec.json.Decoder(MessagesBody).decode(msgspec.json.encode(body)))


def test_blocks_become_turns() -> None:
    """System text first, results of tools as turns of their own, calls and thoughts with their turn."""
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "weather"}, {"type": "text", "text": "?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    request = read(
        messages=turns, system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
    )
    assert request.messages == (
        Message("system", "be brief"),
        Message("user", "weather?"),
        Message("assistant", "let me see", (ToolCall("t1", "get_weather", '{"city":"Rome"}'),), thought="hm"),
        Message("tool", "sunny", call="t1"),
        Message("user", "and now?"),
    )


@pytest.mark.parametrize(
    ("chosen", "choice", "only", "several"),
    [
        (None, ToolChoice.AUTO, "", True),
        ({"type": "any"}, ToolChoice.REQUIRED, "", True),
        ({"type": "tool", "name": "get_weather"}, ToolChoice.REQUIRED, "get_weather", True),
        ({"type": "none"}, ToolChoice.NONE, "", True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice.AUTO, "", False),
    ],
)
def test_choices_of_tools(chosen: Any, choice: ToolChoice, only: str, several: bool) -> None:
    """Each of Anthropic's choices is one of ours."""
    tools = read(tools=[TOOL], tool_choice=chosen).tools
    assert (tools.choice, tools.only, tools.several, tools.tools[0].name) == (choice, only, several, "get_weather")


def test_settings_arrive() -> None:
    """Limits, samplers and stops."""
    generation = read(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["a", "b"]).generation
    sampling = generation.sampling
    assert (generation.max_tokens, generation.stop) == (5, ("a", "b"))
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 3)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"max_tokens": None}, 400, "max_tokens: required"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "sent within the request, as base64"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400, "text and pictures, not 'audio'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, 400, "an assistant uses tools"),
        ({"output_config": {"format": {"type": "xml"}}}, 400, "a json_schema with its schema"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": CITY}}, "tools": [TOOL]},
            400,
            "one of a schema and tools",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "tools of Anthropic's own"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, 400, "there is no tool 'x'"),
        ({"model": "other"}, 404, "not 'other'"),
    ],
)
async def test_errors_are_anthropic_s(fields: dict[str, Any], status: int, said: str) -> None:
    """A sentence in the body that its clients read, with the kind that the status has."""
    body = {"model": MODEL, "max_tokens": 5, "messages": HI, **fields}
    async with served() as worker:
        answer = await worker.client.post("/v1/messages", json=body)
    told = answer.json()
    assert (answer.status_code, told["type"]) == (status, "error")
    assert said in told["error"]["message"]
    assert told["error"]["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


def test_the_kinds_of_errors() -> None:
    """Whoever retries by kind finds those that Anthropic has."""
    kinds = {
        status: anthropic_error(RequestError(status, "x"))["error"]["type"] for status in (400, 404, 413, 500, 503)
    }
    assert [*kinds.values()] == [
        *("invalid_request_error", "not_found_error", "request_too_large", "api_error", "overloaded_error")
    ]


def test_blocks_of_a_stream_are_numbered_and_closed() -> None:
    """Text, a call, text again: three blocks, each begun and ended once."""
    shape = MessageAnswer("m")
    call = ToolCall("t1", "get_weather", '{"city": "Rome"}')
    raw = b"".join(
        [
            shape.piece(Delta("a")),
            shape.piece(Delta("b", calls=(call,))),
            shape.piece(Delta("c")),
            shape.ending(Delta(finish=Finish.TOOL_CALLS)),
            *(item for item in shape.closing(Usage(9, 3, 4), told=False) if isinstance(item, bytes)),
        ]
    )
    events = [msgspec.json.Decoder().decode(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]
    kinds = [(event["type"].removeprefix("content_block_"), event.get("index")) for event in events]
    assert kinds == [
        *(("start", 0), ("delta", 0), ("delta", 0), ("stop", 0), ("start", 1), ("delta", 1), ("stop", 1)),
        *(("start", 2), ("delta", 2), ("stop", 2), ("message_delta", None), ("message_stop", None)),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == {
        "input_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "output_tokens": 3,
    }


def test_arguments_that_are_no_object_are_told() -> None:
    """Whatever a model wrote, the client gets an object."""
    choice = Choice(calls=[ToolCall("t1", "f", "[1"), ToolCall("t2", "f", "{}")], finish=Finish.TOOL_CALLS)
    blocks = MessageAnswer("m").whole([choice], Usage(1, 1))["content"]
    assert [block["input"] for block in blocks] == [{"arguments": "[1"}, {}]


@pytest.mark.engine
async def test_anthropic_s_client_talks_to_a_real_model(llama_engine_dir: Path, smol_model: Path) -> None:
    """Whole, streamed, with a tool, counted, and refused: in the client's own types."""
    spec = WorkerSpec(id="llama-000001", model=MODEL, engine="llama-cpp", context=512, slots=2)
    turns: Any = [{"role": "user", "content": "Name a colour."}]
    async with served(engine=LlamaEngine(spec, smol_model, llama_engine_dir)) as up:
        url, headers = f"http://127.0.0.1:{up.port}", {"x-rbee-token": TOKEN}
        async with anthropic.AsyncAnthropic(
            base_url=url, api_key="x", default_headers=headers, max_retries=0
        ) as client:
            ask, cold = client.messages.create, {"temperature": 0}
            await ask(model=MODEL, max_tokens=1, messages=turns)
            whole = await ask(model=MODEL, max_tokens=8, messages=turns, extra_body=cold)
            async with client.messages.stream(model=MODEL, max_tokens=8, messages=turns, extra_body=cold) as stream:
                pieces = [text async for text in stream.text_stream]
                streamed = await stream.get_final_message()
            tool: Any = TOOL
            called = await ask(
                model=MODEL, max_tokens=200, messages=turns, tools=[tool], tool_choice={"type": "any"}, extra_body=cold
            )
            form: Any = {"format": {"type": "json_schema", "schema": CITY}}
            held = await ask(model=MODEL, max_tokens=200, messages=turns, output_config=form)
            count = await client.messages.count_tokens(model=MODEL, messages=turns)
            with pytest.raises(anthropic.BadRequestError, match="takes 512"):
                await ask(model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "word " * 2000}])
    assert whole.content[0].type == "text"
    assert whole.content[0].text == "".join(pieces)
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    assert streamed.usage.output_tokens == whole.usage.output_tokens == 8
    assert count.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert held.content[0].type == "text"
    assert msgspec.json.Decoder().decode(held.content[0].text) in ({"city": "Rome"}, {"city": "Oslo"})
    (block,) = called.content
    assert (called.stop_reason, block.type) == ("tool_use", "tool_use")
    assert block.type == "tool_use"
    assert block.input in ({"city": "Rome"}, {"city": "Oslo"})
