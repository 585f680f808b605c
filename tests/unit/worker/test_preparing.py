"""Chat templates and schemas in their own process: whatever they do, it is one client's error."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.worker.engines.llamacpp.preparer import Preparer
from rbee_runtime.worker.engines.llamacpp.preparing import Compile

pytestmark = pytest.mark.engine

TURNS = [{"role": "user", "content": "hi"}]
ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
LARGE = "{{ 'x' * 100000 * 100000 }}"


@asynccontextmanager
async def prepared(source: str, engine: Path) -> AsyncIterator[Preparer]:
    """Start and end the process of one template."""
    preparer = Preparer(Compile(source, "<s>", "</s>", str(engine)))
    await preparer.start()
    try:
        yield preparer
    finally:
        await preparer.close()


async def test_a_template_is_rendered(llama_engine_dir: Path) -> None:
    """Messages and tools reach it."""
    source = "{{ bos_token }}{{ messages[0].content }}{% for t in tools %} {{ t.function.name }}{% endfor %}"
    async with prepared(source, llama_engine_dir) as preparer:
        assert await preparer.render(TURNS, [{"function": {"name": "f"}}]) == "<s>hi f"


@pytest.mark.parametrize("source", ["{% for %}", "{{ ", "x" * ((1 << 20) + 1)])
async def test_a_damaged_template_fails_the_load(source: str, llama_engine_dir: Path) -> None:
    """It is found when the model loads."""
    with pytest.raises(EngineLoadError, match="chat template"):
        async with prepared(source, llama_engine_dir):
            pass


@pytest.mark.parametrize("source", [ENDLESS, LARGE])
async def test_a_hostile_template_costs_its_client_an_error(source: str, llama_engine_dir: Path) -> None:
    """Time and memory are bounded, and the next client is served."""
    text = "{% if messages[0].content == 'bad' %}" + source + "{% endif %}ok"
    async with prepared(text, llama_engine_dir) as preparer:
        with pytest.raises(RequestError, match="too much memory") as refusal:
            await preparer.render([{"role": "user", "content": "bad"}])
        assert (refusal.value.status, refusal.value.param) == (400, "messages")
        assert await preparer.render(TURNS) == "ok"


async def test_a_client_that_leaves_does_not_disturb_the_next(llama_engine_dir: Path) -> None:
    """Half an answer is never read as the beginning of another one."""
    async with prepared("{{ messages[0].content }}", llama_engine_dir) as preparer:
        for _ in range(3):
            leaving = asyncio.create_task(preparer.render([{"role": "user", "content": "x" * 1_000_000}]))
            await asyncio.sleep(0.001)
            leaving.cancel()
        assert await preparer.render(TURNS) == "hi"


async def test_a_process_that_was_ended_is_started_anew(llama_engine_dir: Path) -> None:
    """Nobody's request is lost because it died between two questions."""
    async with prepared("{{ messages[0].content }}", llama_engine_dir) as preparer:
        os.kill(preparer.pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert await preparer.render(TURNS) == "hi"


async def test_a_schema_becomes_a_grammar(llama_engine_dir: Path) -> None:
    """In GBNF, with a rule named root."""
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    async with prepared("", llama_engine_dir) as preparer:
        grammar = await preparer.grammar_of(schema, "response_format")
    assert any(line.startswith("root ::=") for line in grammar.splitlines())


async def test_strings_hold_no_control_characters(llama_engine_dir: Path) -> None:
    """A line end within a string has to be escaped, or the answer is no JSON."""
    async with prepared("", llama_engine_dir) as preparer:
        for schema in ('{"type": "object"}', '{"type": "string", "maxLength": 5}'):
            grammar = await preparer.grammar_of(schema, "response_format")
            (character,) = (line for line in grammar.splitlines() if line.startswith("char ::="))
            assert character.startswith(r'char ::= [^"\\\x7F\x00-\x1F] |')


BAD: list[tuple[Any, str]] = [
    ({"type": "object", "properties": {"a": {"minimum": 3}}}, "minimum"),
    ({"not": {}}, "not"),
    ({"$ref": "https://example.com/schema"}, "Fetching remote schemas is not allowed"),
    ({"$ref": "#/nowhere"}, "nowhere"),
    ({"type": "robot"}, "robot"),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 100000}, "grammar of"),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 10**9}, "too much memory"),
    ({"description": "x" * 300_000}, "characters"),
]


@pytest.mark.parametrize(("schema", "said"), BAD)
async def test_a_schema_that_cannot_be_held_to_is_a_400(schema: Any, said: str, llama_engine_dir: Path) -> None:
    """What is wrong with it is said, and the next client is served."""
    async with prepared("ok", llama_engine_dir) as preparer:
        with pytest.raises(RequestError, match=said) as refusal:
            await preparer.grammar_of(json.dumps(schema), "response_format")
        assert (refusal.value.status, refusal.value.param) == (400, "response_format")
        assert await preparer.render(TURNS) == "ok"


async def test_names_of_properties_are_no_keywords(llama_engine_dir: Path) -> None:
    """A property may be called `not` or `minimum`."""
    schema = {"type": "object", "properties": {"not": {"type": "string"}, "minimum": {"type": "number"}}}
    async with prepared("", llama_engine_dir) as preparer:
        assert "minimum" in await preparer.grammar_of(json.dumps(schema), "response_format")


async def test_deep_nesting_is_a_400(llama_engine_dir: Path) -> None:
    """Neither a deep list nor a deep schema ends the process."""
    async with prepared("ok", llama_engine_dir) as preparer:
        for deep in ('{"items":' * 5000 + "{}" + "}" * 5000, "[" * 100_000):
            with pytest.raises(RequestError, match="nested"):
                await preparer.grammar_of(deep, "response_format")
        assert await preparer.render(TURNS) == "ok"
