"""`POST /v1/embeddings` as OpenAI has it, and `POST /v1/rerank` as Jina, Cohere and both servers behind us have it."""

import base64
import struct
from typing import Annotated, Any, Literal

import msgspec

from rbee_runtime.worker.engines import Usage
from rbee_runtime.worker.engines.vectors import EmbedRequest, RankRequest
from rbee_runtime.worker.surface.exchange import Exchange, demand_model
from rbee_runtime.worker.surface.generation import decoded, invalid
from rbee_runtime.worker.surface.reply import Reply

MOST_INPUTS = 2048
"""OpenAI's own limit, and as many documents."""

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Tokens = Annotated[list[_Token], msgspec.Meta(min_length=1)]
_Many = msgspec.Meta(min_length=1, max_length=MOST_INPUTS)
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class EmbeddingsBody(msgspec.Struct, frozen=True):
    """What to embed: a text, token ids, or several of either."""

    model: _Model
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None = None


class Document(msgspec.Struct, frozen=True):
    """A document in its longer form."""

    text: str


class RerankBody(msgspec.Struct, frozen=True):
    """What to order; `top_n` leaves the others out of the answer."""

    model: _Model
    query: _Text
    documents: Annotated[list[str | Document], _Many]
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool | None = None


_embeddings = msgspec.json.Decoder(EmbeddingsBody)
_rerank = msgspec.json.Decoder(RerankBody)


class EmbeddingsRoute(Exchange):
    """The route of vectors."""

    async def answer(self, raw: bytes, reply: Reply) -> None:
        """Give a vector for each input."""
        body = decoded(raw, _embeddings)
        demand_model(self.worker, body.model)
        request = EmbedRequest(_inputs(body.input), body.dimensions)
        found = await self.worker.engine.embed(request)
        self.worker.metrics.used(Usage(found.tokens, 0))
        packed = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(found.vectors)
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        await reply.json({"object": "list", "data": data, "model": body.model, "usage": usage})


class RerankRoute(Exchange):
    """The route of orders."""

    async def answer(self, raw: bytes, reply: Reply) -> None:
        """Give the documents in order, the best one first."""
        body = decoded(raw, _rerank)
        demand_model(self.worker, body.model)
        texts = tuple(each if isinstance(each, str) else each.text for each in body.documents)
        found = await self.worker.engine.rank(RankRequest(body.query, texts))
        self.worker.metrics.used(Usage(found.tokens, 0))
        order = sorted(range(len(texts)), key=lambda index: -found.scores[index])[: body.top_n]
        results = [
            {"index": index, "relevance_score": found.scores[index]}
            | ({"document": {"text": texts[index]}} if body.return_documents else {})
            for index in order
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        await reply.json({"model": body.model, "results": results, "usage": usage})


def _inputs(given: str | list[Any]) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(given, str):
        given = [given]
    try:
        if given and isinstance(given[0], int):
            return (tuple(msgspec.convert(given, _Tokens)),)
        found = msgspec.convert(given, Annotated[list[_Text | _Tokens], _Many])
    except msgspec.ValidationError as error:
        raise invalid(f"input: a text, token ids, or up to {MOST_INPUTS} of either: {error}", "input") from error
    return tuple(each if isinstance(each, str) else tuple(each) for each in found)


def _packed(vector: tuple[float, ...]) -> str:
    """Return little-endian floats of 32 bits in base64, as OpenAI's client asks for by itself."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
