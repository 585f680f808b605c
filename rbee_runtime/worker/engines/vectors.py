"""What engines give beside text: vectors of texts, and how well texts fit a question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rbee_runtime.errors import RequestError


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts or token ids whose vectors are wanted; `dimensions` None means as many as the model has."""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each input, in order, and how many tokens all inputs had."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A question and the texts that are to be ordered by how well they answer it."""

    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A score for each document, in their order, more is better; and how many tokens were read."""

    scores: tuple[float, ...]
    tokens: int


def shortened(vector: Sequence[float], dimensions: int | None) -> tuple[float, ...]:
    """Return the first `dimensions` values at length 1, as models are trained whose vectors can be cut; None cuts none.

    Raises RequestError where the model has fewer.
    """
    if dimensions is None or dimensions == len(vector):
        return tuple(vector)
    if dimensions > len(vector):
        message = f"dimensions: vectors of this model have {len(vector)}"
        raise RequestError(400, message, param="dimensions")
    return unit(vector[:dimensions])


def unit(vector: Sequence[float]) -> tuple[float, ...]:
    """Return a vector of the same direction and length 1; that of zeros stays."""
    length = math.hypot(*vector)
    return tuple(value / length for value in vector) if length else tuple(vector)


def unserved(what: str) -> RequestError:
    """Return the refusal of an engine that gives no such thing."""
    return RequestError(
        400, f"the engine of this model serves no {what}; ask a model that is served for it", code="unsupported_route"
    )
