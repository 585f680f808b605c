"""Which streams another worker may go on with."""

import json
from typing import Any

import pytest

from rbee_runtime.gateway.body import parse
from rbee_runtime.gateway.continuation import transcript_of

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def eligible(path: str, **fields: Any) -> bool:
    prompt = {"messages": HI} if path == CHAT else {"prompt": "hi"}
    body = {"model": "m", "stream": True, **prompt, **fields}
    return transcript_of(path, parse(json.dumps(body).encode())) is not None


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 1, "stop": [], "logprobs": None, "grammar": None, "max_tokens": 5},
        {"temperature": 0, "seed": 7, "presence_penalty": 1, "stream_options": {"include_usage": True}},
        {"tools": [], "response_format": {"type": "text"}, "logprobs": False, "echo": False, "best_of": 1},
    ],
)
def test_plain_text_of_one_choice_is_continued(path: str, fields: dict[str, Any]) -> None:
    """What may be set without a change to that, may be set."""
    assert eligible(path, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"n": [1]},
        {"stop": "END"},
        {"stop": ["END"]},
        {"grammar": "root ::= [a]"},
        {"response_format": {"type": "json_object"}},
        {"response_format": "text"},
        {"logprobs": True},
        {"stream": False},
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_has_more_to_keep_to_is_not(path: str, fields: dict[str, Any]) -> None:
    """Neither several answers nor what only its own beginning tells how to go on with."""
    assert not eligible(path, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"functions": [{"name": "f"}]},
        {"top_logprobs": 2},
        {"messages": []},
        {"messages": "hi"},
        {"messages": [*HI, {"role": "assistant", "content": "I am"}]},
        {"messages": [*HI, {"role": "assistant", "content": "I am"}], "continue_final_message": True},
    ],
)
def test_a_chat_of_calls_or_of_a_client_that_continues_is_not(fields: dict[str, Any]) -> None:
    """A call has no text so far, and behind an assistant's words there is no place for more of them."""
    assert not eligible(CHAT, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["hi"]},
        {"prompt": [1, 2]},
        {"prompt": None},
        {"echo": True},
        {"suffix": "x"},
        {"best_of": 2},
        {"logprobs": 0},
        {"logprobs": 3},
    ],
)
def test_a_completion_of_anything_but_one_text_is_not(fields: dict[str, Any]) -> None:
    """Token ids have no text to go on from, and an echo is none that was produced."""
    assert not eligible(TEXT, **fields)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/embeddings"])
def test_other_routes_are_not(path: str) -> None:
    """Their events have names, numbers and parts that a second worker would begin anew."""
    assert not eligible(path)
