"""What the gateway tells of a prompt: how it begins and how many tokens it has for sure."""

import json
from typing import Any

import pytest

from rbee_runtime.gateway.body import parse
from rbee_runtime.gateway.prompts import COUNTED_BYTES, LETTERS_PER_TOKEN, OPENING_BYTES

TEXT = "word " * (COUNTED_BYTES // 4)
LETTERS = TEXT.count("w") * 4


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def of(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "opening"),
    [
        ({"messages": [user("hi")]}, '[{"role": "user", "content": "hi"}]'),
        ({"prompt": "Once"}, '"Once"'),
        ({"input": ["a", "b"]}, '["a", "b"]'),
        ({"system": "Be brief.", "messages": []}, '"Be brief."[]'),
        ({"instructions": "Be brief.", "input": "hi"}, '"Be brief.""hi"'),
        ({"temperature": 1}, ""),
    ],
)
def test_a_prompt_begins_as_it_came(fields: dict[str, Any], opening: str) -> None:
    """Whatever the dialect, what an engine reads first comes first, and other fields play no part."""
    assert bytes(parse(of(**fields)).opening) == opening.encode()


def test_an_opening_is_short() -> None:
    """Of a long prompt only its beginning is kept in mind."""
    body = parse(of(temperature=1, messages=[user("x" * 10**6)]))
    assert len(body.opening) == OPENING_BYTES


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"messages": [user(TEXT)]}, LETTERS // LETTERS_PER_TOKEN),
        ({"messages": [user([{"type": "text", "text": TEXT}, {"type": "text", "text": "x"}])]}, None),
        ({"prompt": TEXT}, LETTERS // LETTERS_PER_TOKEN),
        ({"prompt": [TEXT, TEXT]}, LETTERS // LETTERS_PER_TOKEN),
        ({"prompt": [7] * COUNTED_BYTES}, COUNTED_BYTES),
        ({"prompt": [[7] * COUNTED_BYTES, [7]]}, COUNTED_BYTES),
        ({"messages": [user(" " * len(TEXT) * 9)]}, 0),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "data:" + TEXT}}])]}, 0),
        ({"messages": [{"role": "assistant", "content": f"<think>{TEXT}</think>"}]}, 0),
        ({"messages": [user("hi")], "metadata": {"x": TEXT}}, 0),
        ({"messages": [user(TEXT)], "truncation": "auto"}, 0),
        ({"prompt": TEXT, "truncate_prompt_tokens": 100}, 0),
        ({"messages": TEXT}, 0),
        ({"messages": [user("hi")]}, 0),
        ({"input": TEXT}, 0),
    ],
)
def test_only_what_is_sure_is_counted(fields: dict[str, Any], tokens: int | None) -> None:
    """Text of users and tokens count; pictures, white space, thoughts and what may be cut do not."""
    expected = (LETTERS + 1) // LETTERS_PER_TOKEN if tokens is None else tokens
    assert parse(of(**fields)).floor == expected
