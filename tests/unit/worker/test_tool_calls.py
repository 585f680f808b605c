"""Calls of tools are found in what models of each family write, however it is cut into pieces."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.worker.engines import Delta, Finish, Message, Tool, Tools
from rbee_runtime.worker.engines.calling import new_id, with_calls
from rbee_runtime.worker.engines.llamacpp.conversation import turns
from rbee_runtime.worker.engines.tool_calls import MOST_CALLS, CallReader
from rbee_runtime.worker.engines.tool_forms import ToolForm, form_of, schema_of, told, wrapped

ONE = '{"name": "weather", "arguments": {"city": "Rome"}}'
TWO = '{"name": "now", "arguments": {}}'
TEXT_ARGUMENTS = '{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}'
WEATHER: tuple[str, Any] = ("weather", {"city": "Rome"})
NOW: tuple[str, Any] = ("now", {})
PIECES = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "{", "}", "x", " ", '"', "[", "]"]

CASES: list[tuple[ToolForm, str, str, list[tuple[str, Any]]]] = [
    (ToolForm.HERMES, f"<tool_call>\n{ONE}\n</tool_call>", "", [WEATHER]),
    (
        ToolForm.HERMES,
        f"Let me see.<tool_call>{ONE}</tool_call>\n<tool_call>{TWO}</tool_call>",
        "Let me see.",
        [WEATHER, NOW],
    ),
    (ToolForm.HERMES, f"<tool_call>{ONE}</tool_call>\n so it is", "so it is", [WEATHER]),
    (ToolForm.HERMES, f"<tool_call>{ONE}", "", [WEATHER]),
    (ToolForm.HERMES, "2 <tool 3", "2 <tool 3", []),
    (ToolForm.HERMES, "<tool_call>not JSON</tool_call>!", "<tool_call>not JSON</tool_call>!", []),
    (ToolForm.HERMES, '<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
    (ToolForm.HERMES, "<tool_call>[1, 2]</tool_call>", "<tool_call>[1, 2]</tool_call>", []),
    (
        ToolForm.HERMES,
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        "",
        [WEATHER],
    ),
    (ToolForm.PLAIN, f"<tool_call>{ONE}</tool_call>", "", [WEATHER]),
    (ToolForm.MISTRAL, f"[TOOL_CALLS][{ONE}, {TWO}]", "", [WEATHER, NOW]),
    (ToolForm.MISTRAL, f"I look: [TOOL_CALLS] [{ONE}]", "I look: ", [WEATHER]),
    (ToolForm.MISTRAL, "[TOOL_CALLS][", "[TOOL_CALLS][", []),
    (ToolForm.MISTRAL_ARGS, '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{}', "", [WEATHER, NOW]),
    (ToolForm.MISTRAL_ARGS, f"[TOOL_CALLS][{ONE}]", "", [WEATHER]),
    (ToolForm.LLAMA3, ONE.replace("arguments", "parameters"), "", [WEATHER]),
    (ToolForm.LLAMA3, f" {ONE}; {TWO}", "", [WEATHER, NOW]),
    (ToolForm.LLAMA3, f"<|python_tag|>{ONE}", "", [WEATHER]),
    (ToolForm.LLAMA3, "Rome is sunny {today}", "Rome is sunny {today}", []),
    (ToolForm.LLAMA3, '{"city": "Rome"', '{"city": "Rome"', []),
    # Arguments given as a text that is no JSON.
    *(
        (ToolForm.HERMES, each, each, [])
        for each in (
            '<tool_call>{"name": "now", "arguments": "{"}</tool_call>',
            '<tool_call>{"name": "now", "arguments": "["}',
        )
    ),
]


def read(form: ToolForm, pieces: Iterator[str] | list[str]) -> tuple[str, list[tuple[str, Any]]]:
    """Return the text and the calls of an answer."""
    numbers = itertools.count()
    reader = CallReader(form, lambda: f"c{next(numbers)}")
    found = [reader.push(piece) for piece in pieces]
    found.append(reader.finish())
    calls = [(call.name, json.loads(call.arguments)) for each in found for call in each.calls]
    assert reader.found == len(calls)
    return "".join(each.text for each in found), calls


@pytest.mark.parametrize(("form", "answer", "text", "calls"), CASES)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_calls_are_found_whatever_the_pieces(
    form: ToolForm, answer: str, text: str, calls: list[tuple[str, Any]], size: int
) -> None:
    """Text is text, calls are calls, and what only begins like a call is text to the last letter."""
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    assert read(form, pieces) == (text, calls)


@given(
    st.sampled_from(ToolForm),
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "{", "}", "x", " ", '"', "[", "]"]),
        max_size=12,
    ),
)
def test_no_answer_breaks_the_reader(form: ToolForm, pieces: list[str]) -> None:
    """Whatever a model writes, the reader gives text or calls, never an error."""
    text, calls = read(form, pieces)
    assert calls or "".join(text.split()) == "".join("".join(pieces).split())


def test_an_endless_row_of_calls_ends() -> None:
    """More calls than anybody can mean are text."""
    text, calls = read(ToolForm.HERMES, [f"<tool_call>{TWO}</tool_call>"] * (MOST_CALLS + 5))
    assert (len(calls), text.count("now")) == (MOST_CALLS, 5)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ messages }}", ToolForm.PLAIN),
        ("{% if tools %}<tool_call>{% endif %}", ToolForm.HERMES),
        ("{% if tools %}[AVAILABLE_TOOLS] [TOOL_CALLS]{% endif %}", ToolForm.MISTRAL),
        ("{% if tools %}[TOOL_CALLS]{{ name }}[ARGS]{% endif %}", ToolForm.MISTRAL_ARGS),
        ("{% if tools %}Environment: ipython{% endif %}", ToolForm.LLAMA3),
        ("{% if tools %}<|python_tag|>{% endif %}", ToolForm.LLAMA3),
        ("{% if tools %}?{% endif %}", ToolForm.HERMES),
    ],
)
def test_a_family_is_known_by_its_template(template: str, form: ToolForm) -> None:
    """What the template shows of calls says how the model writes them."""
    assert form_of(template) is form


def test_tools_are_told_where_the_template_cannot() -> None:
    """The system message tells of them, a new one if there is none."""
    tool = Tool("weather", "of a city")
    with_system = told((Message("system", "Be brief."), Message("user", "hi")), (tool,))
    assert with_system[0].content.startswith("Be brief.")
    assert '"weather"' in with_system[0].content
    assert [message.role for message in told((Message("user", "hi"),), (tool,))] == ["system", "user"]


@pytest.mark.parametrize("form", ToolForm)
def test_a_grammar_of_calls_has_one_root(form: ToolForm) -> None:
    """The root of one call becomes a rule, whatever surrounds it."""
    grammar = wrapped('root ::= "{" space "}"\nspace ::= " "?', form, several=True)
    assert [line.partition(" ::=")[0] for line in grammar.splitlines()].count("root") == 1
    assert 'one-call ::=  "{" space "}"' in grammar
    assert 'space ::= " "?' in grammar


def test_a_named_tool_is_the_only_one_in_the_schema() -> None:
    """Of one tool there is one form of call, of several any of theirs."""
    both = (Tool("a"), Tool("b"))
    assert schema_of(Tools(both, only="b"), ToolForm.HERMES)["properties"]["name"] == {"const": "b"}
    assert len(schema_of(Tools(both), ToolForm.LLAMA3)["anyOf"]) == 2


async def test_an_answer_with_calls_ends_with_calls() -> None:
    """Each choice has its own calls, its own text and its own end."""

    async def deltas() -> Any:
        yield Delta("<tool_call>", choice=0)
        yield Delta("just text", choice=1)
        yield Delta(f"{ONE}</tool_call>", finish=Finish.STOP, choice=0)
        yield Delta("", finish=Finish.STOP, choice=1)

    out = [delta async for delta in with_calls(deltas(), ToolForm.HERMES, several=True)]
    assert [(each.choice, each.text, len(each.calls), each.finish) for each in out] == [
        (1, "just text", 0, None),
        (0, "", 1, Finish.TOOL_CALLS),
        (1, "", 0, Finish.STOP),
    ]


async def test_without_parallel_calls_there_is_one() -> None:
    """Whatever the model writes, a client that takes one call at a time gets one."""

    async def deltas() -> Any:
        yield Delta(f"<tool_call>{ONE}</tool_call>")
        yield Delta(f"<tool_call>{TWO}</tool_call>", finish=Finish.STOP)

    out = [delta async for delta in with_calls(deltas(), ToolForm.HERMES, several=False)]
    assert [call.name for each in out for call in each.calls] == ["weather"]
    assert out[-1].finish is Finish.TOOL_CALLS


async def test_an_answer_that_was_cut_stays_cut() -> None:
    """A client must not take the calls of half an answer for all of them."""

    async def deltas() -> Any:
        yield Delta(f'<tool_call>{ONE}</tool_call><tool_call>{{"na', finish=Finish.LENGTH)

    (last,) = [delta async for delta in with_calls(deltas(), ToolForm.HERMES, several=True)]
    assert (len(last.calls), last.text, last.finish) == (1, "", Finish.LENGTH)


@pytest.mark.parametrize(
    ("form", "answer", "text"),
    [
        (ToolForm.HERMES, '<tool_call>\n"The', '<tool_call>\n"The'),
        (ToolForm.HERMES, "Well.<tool_call>\n", "Well."),
        (ToolForm.HERMES, '<tool_call>\n{"na', ""),
        (ToolForm.MISTRAL, '[TOOL_CALLS] [{"na', ""),
        (ToolForm.MISTRAL, "[TOOL_CALLS] or so", "[TOOL_CALLS] or so"),
        (ToolForm.MISTRAL_ARGS, "[TOOL_CALLS]weat", ""),
        (ToolForm.LLAMA3, '{"city": "Ro', '{"city": "Ro'),
    ],
)
def test_of_an_answer_that_was_cut_only_half_a_call_is_left_out(form: ToolForm, answer: str, text: str) -> None:
    """What could no longer become a call is the answer's text, cut or not."""
    reader = CallReader(form, new_id)
    assert [reader.push(answer).text + reader.finish(cut=True).text, reader.found] == [text, 0]


def test_ids_of_calls_are_what_mistrals_templates_take() -> None:
    """Nine letters or digits."""
    assert all(len(made) == 9 and made.isalnum() for made in (new_id() for _ in range(20)))


def test_templates_get_arguments_as_objects() -> None:
    """OpenAI's text of arguments is parsed, what is no JSON stays text."""
    from rbee_runtime.worker.engines import ToolCall  # noqa: PLC0415

    good, bad = ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "f", "{a")
    (turn,) = turns((Message("assistant", "", (good, bad)),))
    assert [call["function"]["arguments"] for call in turn["tool_calls"]] == [{"a": 1}, "{a"]
