"""Plain completions: prompts that are taken, offsets of tokens, several prompts in one answer."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Delta, Finish, TextRequest, TokenLogprob, Usage
from rbee_runtime.worker.surface.completions import TextAnswer, parse
from rbee_runtime.worker.surface.shapes import Choice
from tests.unit.worker.serving import event_of


class Echo:
    """An engine that says each prompt's length."""

    async def complete(self, request: TextRequest) -> AsyncGenerator[Delta, None]:
        yield Delta(str(len(request.prompt)))
        yield Delta(finish=Finish.STOP, usage=Usage(len(request.prompt), 1, 1))


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


async def said(**fields: Any) -> list[Delta]:
    return [delta async for delta in parse(body(**fields)).ask(Echo())]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "texts"), [("abc", ["3"]), ([1, 2], ["2"]), (["a", "bc"], ["1", "2"]), ([[1], [2, 3]], ["1", "2"])]
)
async def test_every_form_of_prompt_is_taken(prompt: Any, texts: list[str]) -> None:
    """A text, token ids, or several of either; each has its own choice, and usage is the sum."""
    deltas = await said(prompt=prompt)
    assert [delta.text for delta in deltas if delta.text] == texts
    assert deltas[-1].usage == Usage(sum(map(int, texts)), len(texts), len(texts))
    assert [delta.usage for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a", "b"], "n": 5}, "prompt"),
        ({"prompt": [1], "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({}, None),
    ],
)
def test_what_is_not_served_is_a_400(fields: dict[str, Any], param: str | None) -> None:
    """The field is named."""
    with pytest.raises(RequestError) as refusal:
        parse(body(**fields))
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_offsets_go_on_through_a_stream() -> None:
    """They count from the beginning of the whole text, what was echoed included."""
    answer, token = TextAnswer("m"), TokenLogprob(b"ab", -1.0)
    answer.piece(Delta("echoed "))
    first, second = (event_of(answer.piece(Delta("abab", logprobs=(token, token)))) for _ in range(2))
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in (first, second)] == [[7, 9], [11, 13]]
    whole = answer.whole([Choice(["echoed ", "abab"], [token, token])], Usage(1, 2))
    assert whole["choices"][0]["logprobs"]["text_offset"] == [7, 9]
