"""llama-cpp's steps of embedding: which texts go into one, what ends a request, and what a file says of itself."""

import math
from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.worker.engines.llamacpp import wire
from rbee_runtime.worker.engines.llamacpp.embedding import Embedder, chosen, plan
from rbee_runtime.worker.engines.llamacpp.native import MOST_TEXTS, Outcome
from rbee_runtime.worker.engines.options import Task
from rbee_runtime.worker.engines.vectors import shortened

CONTEXT = 10


class Model:
    """A model whose vector of a text is its tokens' sum and 1; outcomes are as told, then done."""

    vocabulary = 100

    def __init__(self, *outcomes: Outcome) -> None:
        self.steps: list[list[list[int]]] = []
        self.aborts: list[bool] = []
        self.abort = SimpleNamespace(set=self.aborts.append)
        self._outcomes = list(outcomes)

    def embed(self, texts: Sequence[list[int]]) -> Outcome:
        """Compute a step."""
        self.steps.append(list(texts))
        return self._outcomes.pop(0) if self._outcomes else Outcome.DONE

    def vector(self, text: int) -> list[float]:
        """Return the vector of a text of the last step; one of token 99 has none."""
        tokens = self.steps[-1][text]
        return [math.nan if 99 in tokens else float(sum(tokens)), 1.0]


def embedder(*outcomes: Outcome, room: int = CONTEXT) -> tuple[Embedder, Model, list[Any]]:
    """Return one with the model under it and what it sends."""
    model, sent = Model(*outcomes), list[Any]()
    return Embedder(model, context=CONTEXT, room=room, slots=2, send=sent.append, clock=lambda: 0.0), model, sent  # type: ignore[arg-type]


def until_idle(one: Embedder) -> None:
    """Take steps until there is nothing to do."""
    for _ in range(100):
        if not one.step():
            return
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    ("waiting", "room", "taken"),
    [
        ({}, 10, []),
        ({1: [[1] * 4, [2] * 4, [3] * 4]}, 10, [(1, 1), (1, 2)]),
        ({1: [[1] * 4, [2] * 4], 2: [[3] * 4, [4] * 4]}, 10, [(1, 1), (2, 3)]),
        ({1: [[1] * 9, [2]], 2: [[3] * 4, [4]]}, 10, [(1, 1), (1, 2)]),
        ({1: [[1] * 10], 2: [[2]]}, 10, [(1, 1)]),
    ],
)
def test_a_step_has_texts_of_each_in_turn(
    waiting: dict[int, list[list[int]]], room: int, taken: list[tuple[int, int]]
) -> None:
    """One text of each request after the other, in order, as many as fit; the one that waits longest always has one."""
    assert [(number, text[0]) for number, text in plan(waiting, room, 10)] == taken


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        ({1: [[1] * 9, [2]], 2: [[3]]}, [(1, 1)]),
        ({1: [[1] * 2, [2] * 2], 2: [[3] * 3]}, [(1, 1), (2, 3)]),
        ({1: [], 2: [[3] * 3]}, [(2, 3)]),
    ],
)
def test_a_slow_machine_takes_one_long_text_and_few_short_ones(
    waiting: dict[int, list[list[int]]], taken: list[tuple[int, int]]
) -> None:
    """The first one always goes, whatever a step should take."""
    assert [(number, text[0]) for number, text in plan(waiting, 5, 10)] == taken


def test_a_step_has_no_more_texts_than_sequences() -> None:
    """However short they are."""
    assert len(plan({1: [[1]] * 100}, 1000, 1000)) == MOST_TEXTS


def test_vectors_come_in_order_at_length_one() -> None:
    """A request's answer has a vector for each text, of its own request, and counts their tokens."""
    one, _, sent = embedder(room=5)
    one.submit(1, [[3], [1, 1, 2], [0]])
    one.submit(2, [[3, 4]])
    until_idle(one)
    found = {each.request: each for each in sent}
    assert found[1].tokens == 5
    assert found[2].tokens == 2
    vectors = [tuple(array("f", each)) for each in found[1].vectors]
    assert [each[0] / each[1] for each in vectors] == [pytest.approx(value) for value in (3, 4, 0)]
    assert all(math.hypot(*each) == pytest.approx(1) for each in vectors)


def test_a_library_does_not_hold_up_a_question() -> None:
    """A short request that comes behind a long one is in the next step."""
    one, model, sent = embedder()
    one.submit(1, [[1] * 9] * 50)
    one.step()
    one.submit(2, [[5]])
    one.step()
    one.step()
    assert [type(each) for each in sent] == [wire.Vectors]
    assert len(model.steps) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [([1] * 11, "input 1 has 11 tokens, this model reads 10"), ([], "input 1 holds no text"), ([100], "0 to 99")],
)
def test_a_text_that_cannot_be_read_refuses_its_request(text: list[int], words: str) -> None:
    """The request is refused with the text's number, before anything is computed; others are served."""
    one, model, sent = embedder()
    one.submit(1, [[1], text])
    one.submit(2, [[1]])
    until_idle(one)
    assert (sent[0].request, sent[0].status, sent[0].param) == (1, 400, "input")
    assert words in sent[0].message
    assert [each.request for each in sent[1:]] == [2]
    assert model.steps == [[[1]]]


def test_a_text_that_is_too_long_to_be_tokenised_is_refused() -> None:
    """By its least count of tokens; unless its client has left."""
    one, _, sent = embedder()
    one.refuse(1, 3, 4000)
    one.cancel(2)
    one.refuse(2, 3, 4000)
    assert [(each.request, each.code) for each in sent] == [(1, "context_length_exceeded")]


def test_who_leaves_is_computed_no_further() -> None:
    """Whether before the texts come, between two steps or in the midst of one, which is then ended."""
    one, model, sent = embedder(Outcome.DONE, Outcome.ABORTED)
    one.cancel(1)
    one.submit(1, [[1]])
    one.submit(2, [[2] * 9] * 3)
    one.step()
    one.abandon(2)
    assert model.aborts[-1]
    one.submit(3, [[3]])
    one.step()
    one.cancel(2)
    until_idle(one)
    assert [each.request for each in sent] == [3]
    assert model.steps[-1] == [[3]]


def test_a_step_without_room_and_a_vector_of_no_numbers_fail_their_requests() -> None:
    """With an error of the server, and the next one is served."""
    one, _, sent = embedder(Outcome.NO_ROOM)
    one.submit(1, [[1], [2]])
    one.step()
    one.submit(2, [[99], [1]])
    one.submit(3, [[1]])
    until_idle(one)
    assert [(each.request, getattr(each, "status", 200)) for each in sent] == [(1, 503), (2, 500), (3, 200)]


def test_gauges_show_who_waits() -> None:
    """Requests up to the slots are busy, the others wait."""
    one, _, _ = embedder()
    for number in range(5):
        one.submit(number, [[1]])
    assert one.counts() == (2, 3, 0)


ENCODER = {"general.architecture": "bert", "bert.attention.causal": False}
DECODER = {"general.architecture": "qwen3"}


@pytest.mark.parametrize(
    ("metadata", "options", "expected"),
    [
        (DECODER, ("", ""), (Task.GENERATE, "")),
        (DECODER, ("embed", ""), (Task.EMBED, "mean")),
        (DECODER, ("embed", "last"), (Task.EMBED, "last")),
        (DECODER | {"qwen3.pooling_type": 3}, ("", ""), (Task.EMBED, "last")),
        (DECODER | {"qwen3.pooling_type": 0}, ("", ""), (Task.GENERATE, "")),
        (DECODER | {"qwen3.pooling_type": 3}, ("generate", ""), (Task.GENERATE, "")),
        (DECODER | {"qwen3.pooling_type": "last"}, ("", ""), (Task.GENERATE, "")),
        (ENCODER, ("", ""), (Task.EMBED, "mean")),
        (ENCODER | {"bert.pooling_type": 2}, ("", ""), (Task.EMBED, "cls")),
        (ENCODER | {"bert.pooling_type": 2}, ("embed", "mean"), (Task.EMBED, "mean")),
    ],
)
def test_a_file_says_what_its_model_is_for(
    metadata: dict[str, Any], options: tuple[str, str], expected: tuple[Task, str]
) -> None:
    """Models of vectors are loaded for vectors by themselves, others where an option says so."""
    assert chosen(metadata, *options) == expected


@pytest.mark.parametrize(
    ("metadata", "task", "words"),
    [
        (ENCODER, "generate", "makes vectors and no text"),
        (ENCODER | {"bert.pooling_type": 4}, "", "engine llama-server with task=rerank"),
    ],
)
def test_a_model_that_cannot_do_it_is_refused(metadata: dict[str, Any], task: str, words: str) -> None:
    """With what to do instead."""
    with pytest.raises(EngineLoadError, match=words):
        chosen(metadata, task, "")


def test_vectors_are_cut_to_length_one() -> None:
    """As models are trained whose vectors can be cut; more than there is, is refused."""
    assert shortened((3.0, 4.0, 12.0), 2) == pytest.approx((0.6, 0.8))
    assert shortened((3.0, 4.0), None) == shortened((3.0, 4.0), 2) == (3.0, 4.0)
    assert shortened((0.0, 0.0, 1.0), 2) == (0.0, 0.0)
    with pytest.raises(RequestError, match="have 2"):
        shortened((3.0, 4.0), 3)
