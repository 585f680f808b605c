"""What the OpenAI surface takes, refuses and gives."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import ChatRequest, Delta, Finish, Generation, Message, Sampling, TokenLogprob, Usage
from rbee_runtime.worker.surface.openai import ChatAnswer, ChatBody, parse, request_of
from rbee_runtime.worker.surface.shapes import Choice
from tests.unit.worker.serving import event_of

USER = {"role": "user", "content": "hi"}


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def request(**fields: object) -> ChatRequest:
    return request_of(msgspec.json.decode(body(**fields), type=ChatBody))


def test_what_is_not_said_is_left_to_the_engine() -> None:
    """A request with nothing but messages sets no sampling, no limit, no stream."""
    call = parse(body())
    assert request() == ChatRequest(messages=(Message("user", "hi"),))
    assert (call.model, call.stream, call.include_usage) == ("m", False, False)


SETTINGS: dict[str, object] = {
    "temperature": 0,
    "top_p": 0.5,
    "top_k": 9,
    "min_p": 0.1,
    "repeat_penalty": 1.1,
    "frequency_penalty": 1,
    "presence_penalty": -1,
    "seed": 3,
    "logit_bias": {"5": -100},
    "grammar": 'root ::= "x"',
}


def test_every_setting_reaches_the_engine() -> None:
    """What a client sets is what the engine is asked for."""
    asked = request(max_tokens=7, stop=["a", "b"], n=2, logprobs=True, top_logprobs=4, **SETTINGS)
    sampling = Sampling(0.0, 0.5, 9, 0.1, 1.1, 1.0, -1.0, 3, ((5, -100.0),), 'root ::= "x"')
    assert asked.generation == Generation(7, ("a", "b"), sampling, choices=2, logprobs=4)


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"stop": "x"}, lambda asked: asked.generation.stop == ("x",)),
        ({"max_tokens": 5, "max_completion_tokens": 6}, lambda asked: asked.generation.max_tokens == 6),
        ({"temperature": None, "n": None, "stop": None}, lambda asked: asked.generation == Generation()),
        ({"n": 1, "logprobs": False, "response_format": {"type": "text"}}, lambda asked: asked == request()),
        ({"tools": [], "functions": None, "logit_bias": {}}, lambda asked: asked == request()),
        ({"logprobs": True}, lambda asked: asked.generation.logprobs == 0),
        ({"top_k": -1}, lambda asked: asked.generation.sampling.top_k == 0),
        ({"repetition_penalty": 1.2}, lambda asked: asked.generation.sampling.repeat_penalty == 1.2),
        ({"user": "u", "some_new_field": {"deep": [1]}}, lambda asked: asked == request()),
        ({"messages": [{"role": "developer", "content": "x"}]}, lambda asked: asked.messages[0].role == "system"),
        ({"messages": [{"role": "assistant", "content": None}]}, lambda asked: asked.messages[0].content == ""),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            lambda asked: asked.messages[0].content == "ab",
        ),
    ],
)
def test_what_clients_send_is_taken(fields: dict[str, object], check: Callable[[ChatRequest], bool]) -> None:
    """Nulls, unknown fields, both spellings of the limit and text parts are understood."""
    assert check(request(**fields))


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": True}}, True),
    ],
)
def test_usage_comes_in_a_stream_if_asked_for(fields: dict[str, object], usage: bool) -> None:
    """Only `include_usage` brings the event that some clients cannot read."""
    call = parse(body(stream=True, **fields))
    assert (call.stream, call.include_usage) == (True, usage)


BOUNDS: dict[str, tuple[list[object], list[object]]] = {
    "temperature": ([0, 2], [-0.1, 2.1]),
    "top_p": ([0.01, 1], [0, 1.01]),
    "max_tokens": ([1], [0, -1, 1.5, 10**7 + 1]),
    "frequency_penalty": ([-2, 2], [-2.1, 2.1]),
    "presence_penalty": ([-2, 2], [-2.1, 2.1]),
    "seed": ([-(2**63), 2**63 - 1], [2**63, "x"]),
    "stop": (["x" * 512, list("abcd")], ["", "x" * 513, list("abcde"), [""], 5]),
    "n": ([1, 8], [0, 9, 100]),
    "top_k": ([-1, 0, 1_000_000], [-2, 1_000_001]),
    "min_p": ([0, 1], [-0.1, 1.1]),
    "repeat_penalty": ([0.01, 10], [0, 10.1]),
    "repetition_penalty": ([0.01, 10], [0, 10.1]),
    "logit_bias": (
        [{"1": -100, "2": 100}, {str(token): 1 for token in range(1024)}],
        [{"1": 101}, {"x": 1}, {"-1": 1}, {str(2**31): 1}, [1], {str(token): 1 for token in range(1025)}],
    ),
    "grammar": (
        ["x" * 65536, "(" * 64, '"(((" ' * 100, "[(]" * 100, '"ab"{1,1000}'],
        ["x" * 65537, 5, "(" * 65, '")" (' * 65, "x" * 60_000 + "{2000}", "a{999999999}"],
    ),
    "response_format": (
        [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {}}}],
        [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}, "json"],
    ),
    "tools": ([[]], [[{"type": "function"}], [{"type": "search", "function": {"name": "x"}}], {}]),
    "tool_choice": (["none", "auto"], ["required", "always", {"type": "function", "function": {"name": "x"}}]),
    "model": (["m"], ["", "m" * 201, 5]),
    "stream": ([True], ["yes", 1]),
    "messages": ([[USER] * 4096], [[], [USER] * 4097, "hi", [5], [{"role": "robot", "content": "x"}]]),
}


@pytest.mark.parametrize(("name", "values"), [(name, good) for name, (good, _) in BOUNDS.items()])
def test_bounds_are_inclusive(name: str, values: list[object]) -> None:
    """The last value within each bound is taken."""
    for value in values:
        parse(body(**{name: value}))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, bad) in BOUNDS.items() for value in bad])
def test_beyond_a_bound_is_a_400_with_the_field(name: str, value: object) -> None:
    """A wrong type or a value out of bounds names its field in OpenAI's shape."""
    with pytest.raises(RequestError) as refusal:
        parse(body(**{name: value}))
    assert refusal.value.status == 400
    assert str(refusal.value.param).startswith(name)
    assert str(refusal.value).startswith(name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{}]}, "functions"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ],
)
def test_what_is_not_served_is_refused_in_words(fields: dict[str, object], param: str) -> None:
    """A field that would change the answer is never ignored in silence."""
    with pytest.raises(RequestError) as refusal:
        parse(body(**fields))
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "\\ud800", "messages": []}',
        b'{"x": ' + b"[" * 100_000,
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"logit_bias":' + b'{"a":' * 100_000,
        body(stream_options={"include_usage": True}),
        body(top_logprobs=2),
        body(logprobs=True, top_logprobs=21),
    ],
)
def test_a_body_that_is_no_request_is_a_400(raw: bytes) -> None:
    """Neither broken JSON nor deep nesting gets further than a sentence."""
    with pytest.raises(RequestError) as refusal:
        parse(raw)
    assert refusal.value.status == 400
    assert len(str(refusal.value)) < 300


def test_answers_have_openais_shape() -> None:
    """Chunks and whole answers share identity; usage adds up."""
    answer = ChatAnswer("m", "chatcmpl-1", 5)
    whole = answer.whole([Choice(["te", "xt"])], Usage(3, 2, 1))
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "text", "refusal": None}
    count, done = answer.closing(Usage(3, 2), told=True)
    assert (isinstance(count, dict) and count["choices"], done) == ([], b"data: [DONE]\n\n")
    assert answer.closing(Usage(3, 2), told=False) == (done,)
    assert {answer.opening(0)["id"], whole["id"]} == {"chatcmpl-1"}


def test_choices_keep_their_number() -> None:
    """Every event says of which choice it is, and the whole answer has them in order."""
    answer = ChatAnswer("m")
    whole = answer.whole([Choice(["a"]), Choice(["b"], finish=Finish.LENGTH)], Usage(3, 2))
    assert [(each["index"], each["message"]["content"]) for each in whole["choices"]] == [(0, "a"), (1, "b")]
    events = [answer.opening(1), answer.piece(Delta("x", choice=1)), answer.ending(Delta(finish=Finish.STOP, choice=1))]
    assert [event_of(event)["choices"][0]["index"] for event in events] == [1, 1, 1]


def test_log_probabilities_have_openais_shape() -> None:
    """Each token has its text, its bytes and its likeliest rivals; half a character is bytes all the same."""
    found = TokenLogprob(b"\xe2", -0.5, ((b"a", -0.5), (b"b", -1.5)))
    (entry,) = event_of(ChatAnswer("m").piece(Delta("", logprobs=(found,))))["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == ("\ufffd", [0xE2], -0.5)
    assert [each["token"] for each in entry["top_logprobs"]] == ["a", "b"]


@pytest.mark.parametrize("where", ["schema", "tool"])
@pytest.mark.parametrize("fault", ["deep", "long"])
def test_schemas_are_bounded_for_every_engine(where: str, fault: str) -> None:
    """Neither depth nor length of a schema is left to whatever engine gets it."""
    schema: dict[str, Any] = {"enum": ["x" * 300_000]}
    if fault == "deep":
        schema = {}
        for _ in range(70):
            schema = {"items": schema}
    if where == "schema":
        fields: dict[str, Any] = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        }
    else:
        fields = {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    with pytest.raises(RequestError, match="nested at most 64 deep" if fault == "deep" else "characters of schema"):
        parse(msgspec.json.encode(body))
