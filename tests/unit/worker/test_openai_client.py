"""OpenAI's own Python client against a real model in every engine: what works with theirs works here."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from jsonschema import validate
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.unit.hive.waiting import until
from tests.unit.worker.fronts import KINDS, Front, front
from tests.unit.worker.serving import MODEL

pytestmark = pytest.mark.engine

BEES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What do bees do in spring?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}
PICTURE: Any = {"type": "image_url", "image_url": {"url": "https://192.0.2.1/bee.png"}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "legs": {"type": "integer"},
        "kind": {"enum": ["insect", "bird", "fish"]},
        "colours": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 2},
        "size": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["name", "legs", "kind", "colours", "size"],
    "additionalProperties": False,
}
FEW_NUMBERS = {"legs": {"enum": [0, 2, 4, 6, 8]}, "size": {"anyOf": [{"enum": [1, 10, 100]}, {"type": "null"}]}}
"""For servers that let a small model write digits without end."""

ANIMALS = """
bee ant wasp moth fly beetle cricket flea midge termite robin wren crow hawk owl heron swan goose duck finch gull stork
lark jay kite raven dove quail cod eel carp trout salmon perch pike tuna herring shark ray bass bream tench roach hake
ling plaice sole turbot sprat mullet
"""


@pytest.fixture(scope="module", params=KINDS)
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Return a worker of each engine in turn."""
    kind = KINDS[request.param]
    if kind.missing:
        pytest.skip(kind.missing)
    with front(kind, tmp_path_factory.mktemp(kind.name)) as found:
        yield found


async def test_chat_streamed_and_whole_are_the_same(up: Front) -> None:
    """Text, reason of the end and usage do not depend on `stream`."""
    async with up.client() as ai:
        ask = ai.chat.completions.create
        await ask(model=MODEL, messages=BEES, max_tokens=1)
        whole = await ask(model=MODEL, messages=BEES, max_tokens=24, temperature=0)
        stream = await ask(
            model=MODEL,
            messages=BEES,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24


async def test_choices_and_log_probabilities(up: Front) -> None:
    """`n`, `logprobs` and `top_logprobs` come in the client's own types."""
    async with up.client() as ai:
        answer = await ai.chat.completions.create(
            model=MODEL, messages=BEES, max_tokens=6, n=3, seed=1, logprobs=True, top_logprobs=2
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        found = choice.logprobs.content or []
        assert "".join(each.token for each in found) == choice.message.content
        assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in found)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18


async def test_completions_go_on_with_texts(up: Front) -> None:
    """Several prompts, echo, log probabilities and a stop sequence."""
    async with up.client() as ai:
        answer = await ai.completions.create(
            model=MODEL, prompt=["One, two, three,", "A, B, C,"], max_tokens=6, temperature=0, echo=True, logprobs=1
        )
        stopped = await ai.completions.create(
            model=MODEL, prompt="One, two, three,", max_tokens=20, temperature=0, stop=["six"]
        )
    assert [choice.text[:8] for choice in answer.choices] == ["One, two", "A, B, C,"]
    assert "four" in answer.choices[0].text
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens or []) == 6
    assert (stopped.choices[0].finish_reason, "six" in stopped.choices[0].text) == ("stop", False)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_required_call_is_a_call(up: Front, choice: Any) -> None:
    """However small the model: the grammar leaves nothing but a call whose arguments fit the schema."""
    if not up.kind.tools:
        pytest.skip("what a server that nobody knows does with tools is its own affair")
    async with up.client() as ai:
        ask = ai.chat.completions.create
        settings: dict[str, Any] = {"model": MODEL, "messages": BEES, "tools": [WEATHER], "tool_choice": choice}
        # The first one warms up: a prompt that is computed in pieces may differ in the last bits from a cached one.
        await ask(**settings, temperature=0, parallel_tool_calls=False)
        whole = await ask(**settings, temperature=0, parallel_tool_calls=False)
        stream = await ask(**settings, temperature=0, parallel_tool_calls=False, stream=True)
        pieces = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    calls: Any = whole.choices[0].message.tool_calls
    (call,) = calls
    arguments = json.loads(call.function.arguments)
    validate(arguments, WEATHER["function"]["parameters"])
    assert (whole.choices[0].finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert [json.loads(piece.function.arguments) for piece in pieces] == [arguments]


async def test_a_tool_s_answer_is_read(up: Front) -> None:
    """The turns after a call are taken as the client sends them back."""
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    turns: list[Any] = [
        *BEES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    async with up.client() as ai:
        choices: tuple[Any, ...] = ("auto", "none")
        for wanted in choices:
            answer = await ai.chat.completions.create(
                model=MODEL,
                messages=turns,
                tools=[WEATHER],
                tool_choice=wanted,
                max_tokens=8,
                temperature=0,
            )
            assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


async def test_every_answer_fits_its_schema(up: Front) -> None:
    """Fifty questions at once, hot and cold: no answer of a small model is anything but what was asked for."""
    schema = SCHEMA if up.kind.numbers else SCHEMA | {"properties": SCHEMA["properties"] | FEW_NUMBERS}
    form: Any = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    async with up.client() as ai:

        async def ask(number: int) -> Any:
            asked = f"Describe a {ANIMALS.split()[number]} as JSON."
            answer = await ai.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": asked}],
                response_format=form,
                temperature=number % 3 * 0.6,
                seed=number,
            )
            assert answer.choices[0].finish_reason == "stop"
            return json.loads(answer.choices[0].message.content or "")

        animals = await asyncio.gather(*(ask(number) for number in range(50)))
    for animal in animals:
        validate(animal, schema)


async def test_errors_are_the_client_s_own(up: Front) -> None:
    """Each refusal raises what OpenAI's would, with code and field."""
    async with up.client() as ai:
        ask = ai.chat.completions.create
        with pytest.raises(openai.NotFoundError):
            await ask(model="other", messages=BEES)
        with pytest.raises(openai.BadRequestError) as long:
            await ask(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}])
        with pytest.raises(openai.BadRequestError) as grammar:
            await ask(model=MODEL, messages=BEES, extra_body={"grammar": "root ::= nothing"})
        with pytest.raises(openai.BadRequestError) as image:
            await ask(model=MODEL, messages=[{"role": "user", "content": [PICTURE]}])
    assert image.value.param == "messages[0].content"
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    assert up.kind.grammar is (grammar.value.code != "unsupported_parameter")
    assert grammar.value.param == "grammar" or up.kind.name == "llama-server"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot_within_a_second(up: Front, stream: bool) -> None:
    """The engine itself says so, while a neighbour's answer goes on."""
    async with up.client() as ai:
        ask = ai.chat.completions.create
        staying = asyncio.create_task(ask(model=MODEL, messages=BEES, max_tokens=300, temperature=0))
        leaving = asyncio.create_task(ask(model=MODEL, messages=BEES, max_tokens=900, temperature=0, stream=stream))
        await until(lambda: up.info()["in_flight"] == 2)
        await until(lambda: up.busy() == 2)
        if stream:
            opened: Any = await leaving
            await opened.close()
        leaving.cancel()
        # On a machine that is busy elsewhere the neighbour's answer may have ended before all this was seen.
        await until(lambda: up.info()["in_flight"] == (not staying.done()), within=1)
        # Our own engine: a second, and one for its beat. The others take a second too, on a machine of their own.
        await until(lambda: up.busy() == (not staying.done()), within=2.2 if up.kind.name == "llama-cpp" else 5.0)
        answer: Any = await staying
        assert answer.usage.completion_tokens > 0
