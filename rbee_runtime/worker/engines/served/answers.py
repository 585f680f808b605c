"""A server's whole answers: vectors and scores."""

from typing import Any

import msgspec

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.worker.engines.vectors import Embeddings, Ranking


class Vector(msgspec.Struct, frozen=True):
    """One vector."""

    embedding: tuple[float, ...]
    index: int


class Score(msgspec.Struct, frozen=True):
    """How well one document fits."""

    index: int
    relevance_score: float


class Count(msgspec.Struct, frozen=True):
    """`usage`."""

    prompt_tokens: int = 0
    total_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Return the tokens that were read, under whichever name."""
        return self.prompt_tokens or self.total_tokens


class VectorsAnswer(msgspec.Struct, frozen=True):
    """The answer of `/v1/embeddings`."""

    data: list[Vector]
    usage: Count = Count()


class ScoresAnswer(msgspec.Struct, frozen=True):
    """The answer of `/v1/rerank`."""

    results: list[Score]
    usage: Count = Count()


def embeddings(answer: VectorsAnswer, count: int) -> Embeddings:
    """Return the vectors of so many inputs, or raise EngineCrashedError."""
    by_index = {vector.index: vector.embedding for vector in answer.data}
    _demand_all(by_index.keys(), count)
    return Embeddings(tuple(by_index[index] for index in range(count)), answer.usage.tokens)


def ranking(answer: ScoresAnswer, count: int) -> Ranking:
    """Return the scores of so many documents, or raise EngineCrashedError."""
    by_index = {score.index: score.relevance_score for score in answer.results}
    _demand_all(by_index.keys(), count)
    return Ranking(tuple(by_index[index] for index in range(count)), answer.usage.tokens)


def _demand_all(indices: Any, count: int) -> None:
    if set(indices) != set(range(count)):
        raise EngineCrashedError(f"it was asked for {count} and answered for {sorted(indices)[:8]}")
