"""What the OpenAI surface takes, refuses and gives."""

import json

import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import ChatRequest, Finish, Message, Usage
from rbee_runtime.worker.surface.openai import Answer, parse

USER = {"role": "user", "content": "hi"}


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def test_what_is_not_said_is_left_to_the_engine() -> None:
    """A request with nothing but messages sets no sampling, no limit, no stream."""
    call = parse(body())
    assert call.request == ChatRequest(messages=(Message("user", "hi"),))
    assert (call.model, call.stream, call.include_usage) == ("m", False, False)


def test_every_setting_reaches_the_engine() -> None:
    """What a client sets is what the engine is asked for."""
    call = parse(
        body(max_tokens=7, temperature=0, top_p=0.5, frequency_penalty=1, presence_penalty=-1, stop=["a", "b"], seed=3)
    )
    assert call.request == ChatRequest((Message("user", "hi"),), 7, 0.0, 0.5, 1.0, -1.0, ("a", "b"), 3)


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"stop": "x"}, lambda call: call.request.stop == ("x",)),
        ({"max_tokens": 5, "max_completion_tokens": 6}, lambda call: call.request.max_tokens == 6),
        ({"stream": True, "stream_options": {"include_usage": True}}, lambda call: call.include_usage),
        ({"stream": True, "stream_options": None}, lambda call: call.stream and not call.include_usage),
        ({"temperature": None, "n": None, "tools": None, "stop": None}, lambda call: call.request.temperature is None),
        ({"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}}, lambda call: call.model == "m"),
        ({"user": "u", "some_new_field": {"deep": [1]}}, lambda call: call.model == "m"),
        ({"messages": [{"role": "developer", "content": "x"}]}, lambda call: call.request.messages[0].role == "system"),
        ({"messages": [{"role": "assistant", "content": None}]}, lambda call: call.request.messages[0].content == ""),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            lambda call: call.request.messages[0].content == "ab",
        ),
    ],
)
def test_what_clients_send_is_taken(fields: dict[str, object], check: object) -> None:
    """Nulls, unknown fields, both spellings of the limit and text parts are understood."""
    assert check(parse(body(**fields)))  # type: ignore[operator]


BOUNDS: dict[str, tuple[list[object], list[object]]] = {
    "temperature": ([0, 2], [-0.1, 2.1]),
    "top_p": ([0.01, 1], [0, 1.01]),
    "max_tokens": ([1], [0, -1, 1.5, 10**7 + 1]),
    "frequency_penalty": ([-2, 2], [-2.1, 2.1]),
    "presence_penalty": ([-2, 2], [-2.1, 2.1]),
    "seed": ([-(2**63), 2**63 - 1], [2**63, "x"]),
    "stop": (["x" * 512, list("abcd")], ["", "x" * 513, list("abcde"), [""], 5]),
    "n": ([1], [0, 9, 1000]),
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
        ({"n": 2}, "n"),
        ({"n": 8}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
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
    answer = Answer("m", "chatcmpl-1", 5)
    whole = answer.whole("text", Finish.STOP, Usage(3, 2, 1))
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "text", "refusal": None}
    assert answer.usage_chunk(Usage(3, 2))["choices"] == []
    assert {answer.chunk({})["id"], whole["id"]} == {"chatcmpl-1"}
