"""Requests in a server's words, and its events as pieces of an answer: without any server."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines import (
    ChatRequest,
    Delta,
    Finish,
    Gauges,
    Generation,
    Message,
    Sampling,
    TextRequest,
    Tool,
    ToolCall,
    ToolChoice,
    Tools,
    Usage,
)
from rbee_runtime.worker.engines.served import asking, calls, figures
from rbee_runtime.worker.engines.served.dialects import Levels, Words
from rbee_runtime.worker.engines.served.hearing import Hearing

WORDS = Words(top_k="top_k", min_p="min_p", repeat="repetition_penalty", grammar="grammar")
HELLO = (Message("user", "hello"),)
TOOL = Tool("now", "The time.", '{"type":"object"}')


def chat(words: Words = WORDS, **fields: Any) -> dict[str, Any]:
    return asking.chat_body("m", ChatRequest(HELLO, **fields), words)


def test_a_plain_chat_has_nothing_but_what_was_asked() -> None:
    """What a client left out the server decides."""
    assert chat() == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello"}],
    }


@pytest.mark.parametrize(
    ("generation", "fields"),
    [
        (Generation(max_tokens=5, stop=("a", "b"), choices=2), {"max_tokens": 5, "stop": ["a", "b"], "n": 2}),
        (Generation(logprobs=0), {"logprobs": True, "top_logprobs": 1}),
        (Generation(logprobs=5), {"logprobs": True, "top_logprobs": 5}),
        (Generation(sampling=Sampling(temperature=0, top_p=0.5, seed=7)), {"temperature": 0, "top_p": 0.5, "seed": 7}),
        (Generation(sampling=Sampling(top_k=0, min_p=0.1)), {"top_k": 0, "min_p": 0.1}),
        (Generation(sampling=Sampling(repeat_penalty=1.2)), {"repetition_penalty": 1.2}),
        (Generation(sampling=Sampling(logit_bias=((5, -1.0),))), {"logit_bias": {"5": -1.0}}),
        (Generation(sampling=Sampling(grammar="root ::= [a]")), {"grammar": "root ::= [a]"}),
    ],
)
def test_each_setting_has_its_word(generation: Generation, fields: dict[str, Any]) -> None:
    """Every field of a generation arrives, under the server's own word where OpenAI has none."""
    assert chat(generation=generation) == chat() | fields


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(top_k=4), "top_k"),
        (Sampling(min_p=0.1), "min_p"),
        (Sampling(repeat_penalty=1.1), "repeat_penalty"),
        (Sampling(grammar="x"), "grammar"),
    ],
)
def test_what_a_server_has_no_word_for_is_refused(sampling: Sampling, field: str) -> None:
    """Nobody gets an answer that ignores what was asked for."""
    with pytest.raises(RequestError) as refusal:
        chat(Words(), generation=Generation(sampling=sampling))
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (400, "unsupported_parameter", field)


@pytest.mark.parametrize(
    ("tools", "fields"),
    [
        (Tools((TOOL,)), {}),
        (Tools((TOOL,), ToolChoice.REQUIRED), {"tool_choice": "required"}),
        (
            Tools((TOOL,), ToolChoice.REQUIRED, only="now"),
            {"tool_choice": {"type": "function", "function": {"name": "now"}}},
        ),
        (Tools((TOOL,), several=False), {"parallel_tool_calls": False}),
    ],
)
def test_tools_are_told(tools: Tools, fields: dict[str, Any]) -> None:
    """Definitions and choice arrive; a choice of none is told by no tools at all."""
    function = {"name": "now", "description": "The time.", "parameters": {"type": "object"}}
    assert chat(tools=tools) == chat() | {"tools": [{"type": "function", "function": function}]} | fields
    assert chat(tools=Tools((TOOL,), ToolChoice.NONE)) == chat()


def test_a_conversation_with_calls_arrives_whole() -> None:
    """Calls, their answers and names are as the client sent them."""
    turns = (Message("assistant", "", (ToolCall("c1", "now", "{}"),)), Message("tool", "noon", call="c1", name="now"))
    assert asking.messages_of(turns) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "c1", "name": "now"},
    ]


def test_a_schema_and_a_text_arrive() -> None:
    """`response_format` holds the schema; tokens go out as a list."""
    assert chat(schema='{"type":"array"}')["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "array"}, "strict": True},
    }
    text = asking.text_body("m", TextRequest((1, 2), Generation(logprobs=3)), WORDS)
    assert (text["prompt"], text["logprobs"]) == ([1, 2], 3)


async def heard(*events: dict[str, Any] | str, choices: int = 1, top: int = 1) -> list[Delta]:
    async def stream() -> AsyncGenerator[str, None]:
        for event in events:
            yield event if isinstance(event, str) else json.dumps(event)

    return [delta async for delta in Hearing(choices, top).deltas(stream())]


def part(*, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}}


async def test_text_and_usage_are_heard() -> None:
    """Pieces in order, the reason of the end, and the count last."""
    found = await heard(
        part(role="assistant"), part(content="a"), part(content="b"), part(finish="length"), USAGE, "[DONE]"
    )
    assert found == [Delta("a"), Delta("b"), Delta(finish=Finish.LENGTH, usage=Usage(3, 2))]


async def test_a_call_in_pieces_is_one_call() -> None:
    """Two calls of one choice, each in pieces, come whole and in order, under the finish of calls."""
    pieces = [
        part(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "now", "arguments": ""}}]),
        part(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "then"}}]),
        part(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        part(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
    ]
    found = await heard(*pieces, part(finish="stop"), USAGE, "[DONE]")
    assert found[0] == Delta(
        finish=Finish.TOOL_CALLS,
        calls=(ToolCall("c1", "now", '{"a": 1}'), ToolCall("c2", "then", "{}")),
        usage=Usage(3, 2),
    )


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1}]}]},
        {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1}]},
    ],
)
async def test_log_probabilities_are_heard_in_both_forms(logprobs: dict[str, Any]) -> None:
    """Those of a chat and those of a completion mean the same."""
    event = {"choices": [{"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "stop"}]}
    (token,) = (await heard(event, USAGE, "[DONE]"))[0].logprobs
    assert (token.piece, token.logprob, token.top) == (b"a", -0.5, ((b"b", -1.0),))
    (bare,) = (await heard(event, USAGE, "[DONE]", top=0))[0].logprobs
    assert bare.top == (), "a server may be asked for more than the client asked"


async def test_choices_that_are_counted_apart_are_counted_together() -> None:
    """llama-server tells each choice's tokens apart and the prompt's each time, others all at once or so far."""
    apart = [part(finish="stop"), USAGE, part(index=1, finish="stop"), USAGE]
    assert (await heard(*apart, "[DONE]", choices=2))[-1].usage == Usage(3, 4)
    so_far = [part(content="a") | {"usage": USAGE["usage"]}, part(finish="stop") | {"usage": USAGE["usage"]}]
    assert (await heard(*so_far, "[DONE]"))[-1].usage == Usage(3, 2)
    assert (await heard(*so_far, USAGE, "[DONE]"))[-1].usage == Usage(3, 2), "the last count is of all"


async def test_a_server_that_does_not_count_is_counted() -> None:
    """No usage is no reason to give none."""
    assert (await heard(part(content="a"), part(content="b"), part(finish="stop"), "[DONE]"))[-1].usage == Usage(0, 2)


@pytest.mark.parametrize(
    ("events", "kind", "said"),
    [
        ((part(content="a"),), RequestError, "before it was complete"),
        ((part(content="a"), part(finish="stop"), "[DONE]"), RequestError, "before it was complete"),
        (("nonsense",), EngineCrashedError, "none of OpenAI's"),
        (('{"choices": 1}',), EngineCrashedError, "none of OpenAI's"),
        (({"error": {"message": "no luck"}},), RequestError, "no luck"),
        ((part(content="a", finish="abort"),), RequestError, "abort of choice 0"),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(events: tuple[Any, ...], kind: type[Exception], said: str) -> None:
    """An answer that stops short, is nonsense or says an error is never taken for a whole one."""
    with pytest.raises(kind, match=said):
        await heard(*events, choices=2)


@given(st.binary(max_size=200))
async def test_no_event_breaks_the_reader(raw: bytes) -> None:
    """Whatever a server sends: an answer, or one of the two errors that the front knows."""
    try:
        await heard(raw.decode("latin-1"), "[DONE]")
    except (EngineCrashedError, RequestError):
        return


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, b'{"error":{"message":"bad field","code":400}}', (400, "bad field", None)),
        (400, b'{"message":"older"}', (400, "older", None)),
        (422, b'{"detail":"of FastAPI"}', (400, "of FastAPI", None)),
        (400, b'{"error":{"message":"maximum context length is 8 tokens"}}', (400, "maximum context", "messages")),
        (400, b"plain words", (400, "plain words", None)),
        (404, b"{}", (400, "does not serve that", None)),
        (401, b'{"error":"who?"}', (500, "failed to answer: who?", None)),
        (503, b"", (503, "takes no request now", None)),
        (500, b"\xff", (500, "failed to answer", None)),
        (400, b"[" * 100_000, (400, "[[[", None)),
    ],
)
def test_a_refusal_means_what_it_says(status: int, body: bytes, told: tuple[int, str, str | None]) -> None:
    """Faults of the client stay faults of the client, all others are the engine's."""
    error = calls.refusal(status, body)
    assert (error.status, error.param) == (told[0], told[2])
    assert told[1] in str(error)
    assert len(str(error)) < 1200


def test_figures_are_read_and_the_rest_is_not() -> None:
    """Sums over labels, a number in a label, and nothing for what is not there."""
    text = (
        '# HELP x y\nrun{a="1"} 2.0\nrun{a="2"} 1\nrunning 9\nwait 4\nshare 0.5\ninfo{size="100",b="x"} 1\nrun what\n'
    )
    levels = Levels(busy="run", waiting="wait", held_share="share", cells="info[size]")
    assert figures.gauges(text, levels) == Gauges(busy=3, waiting=4, held=50, cells=100)
    assert figures.gauges("", levels) == figures.gauges("run", levels) == Gauges()
