"""What a model thinks, apart from what it answers: by the marks of its text, and in the form of each API."""

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbee_runtime.errors import RequestError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines import ChatRequest, Delta, Finish, Message, Usage
from rbee_runtime.worker.engines.llamacpp.conversation import turns
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from rbee_runtime.worker.engines.served import asking, vllm
from rbee_runtime.worker.engines.served.dialects import Words
from rbee_runtime.worker.engines.served.hearing import Hearing
from rbee_runtime.worker.engines.served.told_tools import as_calls
from rbee_runtime.worker.engines.thoughts import ThoughtReader, with_thoughts
from rbee_runtime.worker.surface import anthropic, openai, responses
from rbee_runtime.worker.surface.shapes import Choice, Shape
from rbee_runtime.worker.surface.thinking import template_of
from tests.templated_model import THINKING, templated_model
from tests.unit.worker.fronts import KINDS, front
from tests.unit.worker.serving import MODEL, served


def read(*pieces: str, inside: bool = False) -> tuple[str, str]:
    """Return the thoughts and the answer of an answer in pieces."""
    reader = ThoughtReader(inside=inside)
    found = [reader.push(piece) for piece in pieces] + [reader.finish()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


TOLD = [
    ("<think>\nA bee?\n</think>\n\nA bee.", False, ("A bee?", "A bee.")),
    ("\n<think>A</think>B", False, ("A", "B")),
    ("A bee?\n</think>\n\nA bee.", True, ("A bee?", "A bee.")),
    ("<think>\n\n</think>\n\nA bee.", False, ("", "A bee.")),
    ("A bee.", False, ("", "A bee.")),
    (" <thinking> is no mark", False, ("", " <thinking> is no mark")),
    ("A <think>b</think> c", False, ("", "A <think>b</think> c")),
    ("<think>a</think>b <think>c</think>", False, ("a", "b <think>c</think>")),
    ("<think>a < b </thin k> c", False, ("a < b </thin k> c", "")),
    ("<think>cut in the", False, ("cut in the", "")),
    ("cut in the ", True, ("cut in the ", "")),
    ("<thi", False, ("", "<thi")),
    ("  ", False, ("", "  ")),
    ("", True, ("", "")),
    ("<think>a</think>  \n", False, ("a", "")),
]


@pytest.mark.parametrize(("text", "inside", "expected"), TOLD)
def test_thoughts_are_what_is_between_the_marks_at_the_beginning(
    text: str, *, inside: bool, expected: tuple[str, str]
) -> None:
    """However the text comes in: whole, or letter by letter."""
    assert read(text, inside=inside) == expected
    assert read(*text, inside=inside) == expected


PARTS = st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "thi", "nk>", " ", "\n", "a"]), max_size=12)


@given(PARTS, st.booleans(), st.lists(st.integers(0, 40)))
@example(["<", "thi", "</think>", "nk>"], True, [])
def test_how_a_text_is_cut_changes_nothing(parts: list[str], inside: bool, cuts: list[int]) -> None:
    """Any text in any pieces has the thoughts and the answer of the whole, and nothing but space and marks is lost."""
    text = "".join(parts)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    whole = read(text, inside=inside)
    assert read(*(text[a:b] for a, b in itertools.pairwise(edges)), inside=inside) == whole
    for mark in ("<think>", "</think>"):
        # In each by itself: end and beginning together may read like a mark.
        assert text.count(mark) - 1 <= sum(each.count(mark) for each in whole) <= text.count(mark)


async def deltas(*given: Delta) -> AsyncIterator[Delta]:
    """Yield deltas."""
    for each in given:
        yield each


async def test_each_choice_thinks_for_itself() -> None:
    """What is held back comes with the end of its choice; the count is with the last, and of all choices."""
    given = deltas(
        Delta("<think>a", produced=2),
        Delta("b", choice=1, produced=1),
        Delta("</th", produced=3),
        Delta(finish=Finish.STOP, choice=1, produced=1),
        Delta("ink>", produced=4),
        Delta("c", finish=Finish.STOP, usage=Usage(1, 6), produced=5),
    )
    found = [delta async for delta in with_thoughts(given, inside=False)]
    assert "".join(each.thought for each in found if each.choice == 0) == "a"
    assert "".join(each.text for each in found if each.choice == 0) == "c"
    assert [(each.text, each.thought) for each in found if each.choice == 1 and each.text] == [("b", "")]
    assert found[-1].usage == Usage(1, 6, thought=4)


async def test_an_answer_that_is_cut_while_it_thinks_is_all_thought() -> None:
    """All of its tokens are."""
    given = deltas(Delta("a", produced=1), Delta("b", finish=Finish.LENGTH, usage=Usage(1, 2), produced=2))
    found = [delta async for delta in with_thoughts(given, inside=True)]
    assert found[-1].usage == Usage(1, 2, thought=2)


def events(shape: Shape, *given: Delta) -> list[dict[str, Any]]:
    """Return the events of a stream, by the shape of its route."""
    parts: list[Any] = [shape.opening(0)]
    for delta in given:
        parts += [shape.piece(delta)] if delta.text or delta.thought else []
        parts += [shape.ending(delta)] if delta.finish else []
    parts += shape.closing(Usage(1, 2), told=False)
    found: list[dict[str, Any]] = []
    for part in parts:
        lines = part.decode().splitlines() if isinstance(part, bytes) else []
        found += [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        found += [dict(part)] if not isinstance(part, bytes) else []
    return found


THOUGHT = (Delta(thought="a bee"), Delta(thought="?"), Delta("A bee."), Delta(finish=Finish.STOP))
CHOICE = Choice(texts=["A bee."], thoughts=["a bee", "?"])


def test_a_chat_tells_thoughts_as_deepseek_s_clients_read_them() -> None:
    """As `reasoning_content` beside the content, in a stream and whole; an answer without has no such field."""
    found = [each["choices"][0]["delta"] for each in events(openai.ChatAnswer("m"), *THOUGHT) if each.get("choices")]
    assert found[1:4] == [{"reasoning_content": "a bee"}, {"reasoning_content": "?"}, {"content": "A bee."}]
    message = openai.ChatAnswer("m").whole([CHOICE], Usage(1, 2))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("a bee?", "A bee.")
    assert (
        "reasoning_content" not in openai.ChatAnswer("m").whole([Choice(["A"])], Usage(1, 2))["choices"][0]["message"]
    )


def test_a_message_tells_thoughts_in_a_block_of_their_own() -> None:
    """Before the text, numbered and ended as Anthropic has it."""
    found = events(anthropic.MessageAnswer("m"), *THOUGHT)
    about = [(each["type"], each.get("index"), each.get("delta", {}).get("type")) for each in found[1:8]]
    assert about == [
        ("content_block_start", 0, None),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, None),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_stop", 1, None),
    ]
    blocks = anthropic.MessageAnswer("m").whole([CHOICE], Usage(1, 2))["content"]
    assert [each.get("thinking") or each.get("text") for each in blocks] == ["a bee?", "A bee."]


def test_a_response_tells_thoughts_in_an_item_of_their_own() -> None:
    """The last event has both items, as its stream told them."""
    body = responses.ResponsesBody(model="m", input="hi")
    found = events(responses.ResponseAnswer(body), *THOUGHT)
    output = found[-1]["response"]["output"]
    assert [(each["type"], each["content"][0]["text"], each["status"]) for each in output] == [
        ("reasoning", "a bee?", "completed"),
        ("message", "A bee.", "completed"),
    ]
    assert [each["delta"] for each in found if each["type"] == "response.reasoning_text.delta"] == ["a bee", "?"]
    whole = responses.ResponseAnswer(body).whole([CHOICE], Usage(1, 2, thought=1))
    assert [each["content"][0]["text"] for each in whole["output"]] == ["a bee?", "A bee."]
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}


MESSAGES = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("route", "fields", "expected"),
    [
        ("chat", {}, {}),
        ("chat", {"reasoning_effort": "none"}, {"enable_thinking": False}),
        ("chat", {"reasoning_effort": "low"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ("chat", {"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ("chat", {"chat_template_kwargs": {"thinking": True}}, {"thinking": True}),
        ("messages", {}, {}),
        ("messages", {"thinking": {"type": "adaptive"}}, {}),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 5}}, {"enable_thinking": True}),
        ("messages", {"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ("responses", {"reasoning": {"effort": "high"}}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ("responses", {"reasoning": {"summary": "auto"}}, {}),
    ],
)
def test_a_client_says_whether_to_think(route: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """In the words of each API; the chat template is told, and servers likewise."""
    routes: dict[str, tuple[Any, dict[str, Any]]] = {
        "chat": (openai.parse, {"messages": MESSAGES}),
        "messages": (anthropic.parse, {"messages": MESSAGES, "max_tokens": 5}),
        "responses": (responses.parse, {"input": "a"}),
    }
    parse, base = routes[route]
    asked: list[ChatRequest] = []

    class Asked:
        def chat(self, request: ChatRequest) -> None:
            asked.append(request)

    parse(json.dumps({"model": "m", **base, **fields}).encode()).ask(Asked())
    assert dict(asked[0].template) == expected
    assert asking.chat_body("m", asked[0], Words()).get("chat_template_kwargs", {}) == expected


@pytest.mark.parametrize(
    "name", ["messages", "tools", "bos_token", "add_generation_prompt", "tokenize", "chat_template"]
)
def test_a_client_cannot_say_what_is_the_request_s_own(name: str) -> None:
    """Nothing that would make another prompt of it."""
    with pytest.raises(RequestError, match=f"chat_template_kwargs.{name}: this comes from the request"):
        template_of(None, {name: "x"})


def test_earlier_thoughts_come_back_to_the_template() -> None:
    """Which takes them or leaves them; by each route."""
    turn = {"role": "assistant", "content": "b", "reasoning_content": "a"}
    chat = openai.request_of(openai._decoder.decode(json.dumps({"model": "m", "messages": [turn]}).encode()))
    blocks = [{"type": "thinking", "thinking": "a", "signature": ""}, {"type": "text", "text": "b"}]
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "assistant", "content": blocks}]}
    message = anthropic.request_of(anthropic._decoder.decode(json.dumps(body).encode()))
    items: list[Any] = [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
    ]
    response = responses.request_of(msgspec.convert({"model": "m", "input": items}, responses.ResponsesBody))
    for request in (chat, message, response):
        assert request.messages == (Message("assistant", "b", thought="a"),)
        assert turns(request.messages) == [turn]
        assert asking.messages_of(request.messages) == [turn]


async def test_thoughts_before_a_required_call_are_told() -> None:
    """As they come, while the call is gathered; once each."""
    given = deltas(Delta(thought="hm"), Delta('{"name": "now", '), Delta('"arguments": {}}', finish=Finish.STOP))
    found = [delta async for delta in as_calls(given)]
    assert [(each.thought, [call.name for call in each.calls]) for each in found] == [("hm", []), ("", ["now"])]


@pytest.mark.parametrize(
    ("name", "counted", "expected"),
    [
        ("reasoning_content", {}, Usage(3, 9, thought=2)),
        ("reasoning", {"completion_tokens_details": {"reasoning_tokens": 5}}, Usage(3, 9, thought=5)),
        ("reasoning", {"completion_tokens_details": None}, Usage(3, 9, thought=2)),
    ],
)
async def test_thoughts_of_a_server_are_heard(name: str, counted: dict[str, Any], expected: Usage) -> None:
    """By llama-server's name of them and by vLLM's; what it does not count is as many as it sent pieces of them."""
    usage = {"prompt_tokens": 3, "completion_tokens": 9} | counted

    async def sent() -> Any:
        for piece in ("a ", "bee"):
            yield json.dumps({"choices": [{"index": 0, "delta": {name: piece}}]})
        yield json.dumps({"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": "stop"}]})
        yield json.dumps({"choices": [], "usage": usage})

    found = [delta async for delta in Hearing(1).deltas(sent())]
    assert [(each.thought, each.text) for each in found] == [("a ", ""), ("bee", ""), ("", "A"), ("", "")]
    assert found[-1].usage == expected


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("{{ messages }}", ""),
        ("{% if enable_thinking %}<think></think>", "qwen3"),
        ("<think>\n</think>", "deepseek_r1"),
        ("<|start|>assistant<|channel|>analysis", "openai_gptoss"),
        ("[THINK]", "mistral"),
    ],
)
def test_vllm_reads_the_thoughts_of_the_model_s_family(template: str, parser: str, tmp_path: Path) -> None:
    """By the marks of its chat template, where those that are looked for as tokens are some."""
    assert vllm._thoughts_of(template, tmp_path) == ("" if parser in {"qwen3", "deepseek_r1"} else parser)
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"7": {"content": "</think>"}}}')
    assert vllm._thoughts_of(template, tmp_path) == parser


@pytest.mark.engine
@pytest.mark.parametrize("name", ["llama-cpp", "llama-server"])
async def test_a_real_engine_tells_thoughts_apart(name: str, tmp_path: Path) -> None:
    """Of a model whose template thinks: in a stream and whole, and none where the client wants none.

    A grammar has the model write them, which is too small to think by itself. llama-server has models think unless told
    not to, so there the prompt has begun.
    """
    model = templated_model(tmp_path / "thinking.gguf", THINKING)
    begin = "<think>\\n" if name == "llama-cpp" else ""
    grammar = {"grammar": f'root ::= "{begin}A bee?\\n</think>\\n\\nA bee."'}
    say: list[Any] = [{"role": "user", "content": "Hello"}]
    with front(KINDS[name], tmp_path, model=model) as up:
        async with up.client() as ai:
            whole = await ai.chat.completions.create(model=MODEL, messages=say, max_tokens=30, extra_body=grammar)
            stream = await ai.chat.completions.create(
                model=MODEL, messages=say, max_tokens=30, extra_body=grammar, stream=True
            )
            pieces = [chunk.choices[0].delta async for chunk in stream if chunk.choices]
            plain = await ai.chat.completions.create(
                model=MODEL, messages=say, max_tokens=5, reasoning_effort="none", temperature=0
            )
    message = whole.choices[0].message
    assert (message.model_extra or {}).get("reasoning_content", "").strip() == "A bee?"
    assert message.content == "A bee."
    told = [(piece.model_extra or {}).get("reasoning_content", "") for piece in pieces]
    assert "".join(told).strip() == "A bee?"
    assert "".join(piece.content or "" for piece in pieces) == "A bee."
    assert "reasoning_content" not in (plain.choices[0].message.model_extra or {})
    assert plain.choices[0].message.content
    spent, none = (each.usage.model_dump() if each.usage is not None else {} for each in (whole, plain))
    assert 2 <= spent["completion_tokens_details"]["reasoning_tokens"] < spent["completion_tokens"]
    assert none["completion_tokens_details"]["reasoning_tokens"] == 0


@pytest.mark.engine
async def test_what_an_answer_is_held_to_its_thoughts_are_not(llama_engine_dir: Path, tmp_path: Path) -> None:
    """Where the prompt has opened thoughts, they are closed before an answer by a schema; else all is thought."""
    model = templated_model(tmp_path / "thinking.gguf", THINKING)
    spec = WorkerSpec(id="llama-000001", model=MODEL, engine="llama-cpp", context=512)
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}}
    engine, told = LlamaEngine(spec, model, llama_engine_dir), template_of("low")
    async with served(engine=engine) as worker:
        held = (await worker.ask(reasoning_effort="low", response_format=schema, max_tokens=9)).json()
        free = (await worker.ask(reasoning_effort="low", max_tokens=9, temperature=0)).json()
        longer = [
            len(await engine.prompt_tokens(ChatRequest((Message("user", "hi"),), schema=each, template=told)))
            for each in ("", '{"type": "boolean"}')
        ]
    assert held["choices"][0]["message"]["content"].strip() in {"true", "false"}
    assert "reasoning_content" not in held["choices"][0]["message"]
    message = free["choices"][0]["message"]
    assert message["reasoning_content"]
    assert message["content"] == ""
    assert free["usage"]["completion_tokens_details"]["reasoning_tokens"] == free["usage"]["completion_tokens"] > 0
    assert longer[0] < longer[1], "the end of thoughts is counted with the prompt"
