"""`/v1/responses`: of the scripted engine, and by the official client of a real model."""

from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines import Message, ToolCall, ToolChoice
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from rbee_runtime.worker.surface.responses import ResponsesBody, request_of
from tests.unit.worker.serving import MODEL, TOKEN, served

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": CITY, "strict": True}


def read(**fields: Any) -> Any:
    body = {"model": MODEL, "input": "hi there", **fields}
    return request_of(msgspec.json.Decoder(ResponsesBody).decode(msgspec.json.encode(body)))


def test_items_become_turns() -> None:
    """Instructions first, calls that follow each other as one turn, results of tools, thoughts left out."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather"}]},
        {"type": "reasoning", "id": "r1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "snow"}]},
        {"type": "message", "role": "developer", "content": "be brief"},
    ]
    assert read(input=items, instructions="be kind").messages == (
        Message("system", "be kind"),
        Message("user", "weather"),
        Message(
            "assistant",
            "",
            (ToolCall("c1", "get_weather", '{"city":"Rome"}'), ToolCall("c2", "get_weather", '{"city":"Oslo"}')),
        ),
        Message("tool", "sunny", call="c1"),
        Message("tool", "snow", call="c2"),
        Message("system", "be brief"),
    )
    assert read(input=items[:3]).messages[-1].calls == (ToolCall("c1", "get_weather", '{"city":"Rome"}'),)


def test_settings_arrive() -> None:
    """Limits, samplers, tools and a format."""
    named = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "get_weather"}}
    request = read(max_output_tokens=7, temperature=0.5, top_p=0.9, **named)
    assert (request.generation.max_tokens, request.generation.sampling.temperature) == (7, 0.5)
    assert (request.tools.choice, request.tools.only) == (ToolChoice.REQUIRED, "get_weather")
    held = read(text={"format": {"type": "json_schema", "name": "x", "schema": CITY}})
    assert msgspec.json.Decoder().decode(held.schema) == CITY


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "bad name"}]}, "tools[0]"),
        ({"tools": [TOOL], "text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Nothing is kept, so nothing that refers to kept things is taken; bounds as everywhere."""
    async with served() as worker:
        answer = await worker.client.post("/v1/responses", json={"model": MODEL, "input": "hi there", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.engine
async def test_the_official_client_gets_responses(llama_engine_dir: Path, smol_model: Path) -> None:
    """Whole, streamed, with a tool, by a schema, and refused: in the client's own types."""
    spec = WorkerSpec(id="llama-000001", model=MODEL, engine="llama-cpp", context=512, slots=2)
    async with served(engine=LlamaEngine(spec, smol_model, llama_engine_dir)) as up:
        url, headers = f"http://127.0.0.1:{up.port}/v1", {"x-rbee-token": TOKEN}
        async with openai.AsyncOpenAI(base_url=url, api_key="x", default_headers=headers, max_retries=0) as ai:
            ask: Any = ai.responses.create
            asked: dict[str, Any] = {"model": MODEL, "input": "Name a colour.", "temperature": 0}
            await ask(**asked, max_output_tokens=1)
            whole = await ask(**asked, max_output_tokens=8)
            async with ai.responses.stream(**asked, max_output_tokens=8) as stream:
                events = [event async for event in stream]
            called = await ask(**asked, tools=[TOOL], tool_choice="required")
            streaming: Any = ai.responses.stream
            async with streaming(**asked, tools=[TOOL], tool_choice="required") as calling:
                kinds = [event.type async for event in calling]
                told = await calling.get_final_response()
            held = await ask(**asked, text={"format": {"type": "json_schema", "name": "city", "schema": CITY}})
            with pytest.raises(openai.BadRequestError) as long:
                await ask(model=MODEL, input="word " * 3000)
    last: Any = events[-1]
    streamed = last.response
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert whole.output_text == streamed.output_text == "".join(pieces)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens == 8
    assert (last.type, streamed.usage.output_tokens) == ("response.incomplete", 8)
    numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    assert numbers == [*range(len(numbers))]
    (call,) = called.output
    assert (call.type, call.name, called.status) == ("function_call", "get_weather", "completed")
    assert msgspec.json.Decoder().decode(call.arguments) in ({"city": "Rome"}, {"city": "Oslo"})
    assert "response.function_call_arguments.done" in kinds
    assert [item.type for item in told.output] == ["function_call"]
    assert msgspec.json.Decoder().decode(held.output_text) in ({"city": "Rome"}, {"city": "Oslo"})
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")
