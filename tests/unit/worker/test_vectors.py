"""`/v1/embeddings` and `/v1/rerank` over real HTTP: of the scripted engine, and of real servers."""

import base64
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from rbee_runtime.worker.engines.served import answers
from rbee_runtime.worker.surface.vectors import MOST_INPUTS
from tests.unit.worker.fronts import KINDS, front
from tests.unit.worker.serving import MODEL, served

BEES, STOCKS = "Bees make honey from nectar.", "The stock market fell on Monday."


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [
        ("a b", [[2.0] * 4], 2),
        (["a", "b c"], [[1.0] * 4, [2.0] * 4], 3),
        ([5, 6, 7], [[3.0] * 4], 3),
        ([[5], [6, 7]], [[1.0] * 4, [2.0] * 4], 3),
    ],
)
async def test_every_form_of_input_is_embedded(given: Any, vectors: list[list[float]], tokens: int) -> None:
    """A text, token ids, or several of either; in order, with their count."""
    async with served() as worker:
        answer = (await worker.client.post("/v1/embeddings", json={"model": MODEL, "input": given})).json()
    assert [(each["index"], each["embedding"]) for each in answer["data"]] == [*enumerate(vectors)]
    assert (answer["usage"], answer["model"]) == ({"prompt_tokens": tokens, "total_tokens": tokens}, MODEL)


async def test_vectors_come_packed_and_in_the_size_asked_for() -> None:
    """The official client asks for base64 by itself."""
    async with served() as worker:
        body = {"model": MODEL, "input": "a b", "encoding_format": "base64", "dimensions": 2}
        answer = (await worker.client.post("/v1/embeddings", json=body)).json()
        figures = (await worker.client.get("/metrics")).text
    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (2.0, 2.0)
    assert "rbee_worker_prompt_tokens_total 2.0" in figures


async def test_documents_are_ordered() -> None:
    """The best first, as many as asked for, with their text if that is wanted; ties stay in order."""
    body = {"model": MODEL, "query": "red bee", "documents": ["a fly", {"text": "a red bee"}, "a bee"], "top_n": 2}
    async with served() as worker:
        plain = (await worker.client.post("/v1/rerank", json=body)).json()
        told = (await worker.client.post("/v1/rerank", json=body | {"return_documents": True})).json()
    assert plain["results"] == [{"index": 1, "relevance_score": 2.0}, {"index": 2, "relevance_score": 1.0}]
    assert [each["document"]["text"] for each in told["results"]] == ["a red bee", "a bee"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/embeddings", {"model": MODEL, "input": []}, 400, "input"),
        ("/v1/embeddings", {"model": MODEL, "input": ""}, 400, "input"),
        ("/v1/embeddings", {"model": MODEL, "input": [-1]}, 400, "input"),
        ("/v1/embeddings", {"model": MODEL, "input": ["a", 5]}, 400, "input"),
        ("/v1/embeddings", {"model": MODEL, "input": ["a"] * (MOST_INPUTS + 1)}, 400, "input"),
        ("/v1/embeddings", {"model": MODEL, "input": "a", "dimensions": 0}, 400, "dimensions"),
        ("/v1/embeddings", {"model": MODEL, "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ("/v1/embeddings", {"model": "other", "input": "a"}, 404, "model"),
        ("/v1/rerank", {"model": MODEL, "query": "a", "documents": []}, 400, "documents"),
        ("/v1/rerank", {"model": MODEL, "query": "", "documents": ["a"]}, 400, "query"),
        ("/v1/rerank", {"model": MODEL, "query": "a", "documents": ["a"] * (MOST_INPUTS + 1)}, 400, "documents"),
        ("/v1/rerank", {"model": MODEL, "query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n"),
        ("/v1/rerank", {"model": "other", "query": "a", "documents": ["a"]}, 404, "model"),
    ],
)
async def test_bad_input_names_its_field(path: str, body: dict[str, Any], status: int, param: str) -> None:
    """Each bound is a 400 with the field, another model a 404."""
    async with served() as worker:
        answer = await worker.client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize("indices", [[], [1], [0, 1], [0, 0, 1]])
def test_an_answer_that_lacks_one_is_no_answer(indices: list[int]) -> None:
    """A vector for each input or an error, never another's vector."""
    with pytest.raises(EngineCrashedError):
        answers.embeddings(answers.VectorsAnswer([answers.Vector((1.0,), index) for index in indices]), 1)
    with pytest.raises(EngineCrashedError):
        answers.ranking(answers.ScoresAnswer([answers.Score(index, 1.0) for index in indices]), 1)


@pytest.mark.engine
async def test_an_engine_of_text_says_so(llama_engine_dir: Path, smol_model: Path) -> None:
    """llama-cpp refuses both with a sentence, and serves on."""
    spec = WorkerSpec(id="llama-000001", model=MODEL, engine="llama-cpp", context=512)
    async with served(engine=LlamaEngine(spec, smol_model, llama_engine_dir)) as worker:
        vectors = await worker.client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
        order = await worker.client.post("/v1/rerank", json={"model": MODEL, "query": "a", "documents": ["a"]})
        assert (await worker.ask(max_tokens=1)).status_code == 200
    for answer, what in ((vectors, "embeddings"), (order, "reranking")):
        assert answer.status_code == 400
        assert f"serves no {what}" in answer.json()["error"]["message"]


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


EMBED = ("--option", "task=embed")


@pytest.mark.engine
@pytest.mark.parametrize(("name", "given"), [("llama-server", (*EMBED, "--option", "pooling=mean")), ("vllm", EMBED)])
async def test_a_real_server_embeds(name: str, given: tuple[str, ...], tmp_path: Path) -> None:
    """The same text has the same vector, another text another one; vLLM orders by vectors too, and refuses to chat.

    By a model of text, whose vectors mean little: there is none for embedding that would be small enough.
    """
    kind = KINDS[name]
    if kind.missing:
        pytest.skip(kind.missing)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
    with front(kind, tmp_path, *given) as up:
        async with up.client() as ai:
            answer = await ai.embeddings.create(model=MODEL, input=[BEES, STOCKS, BEES])
            alone = await ai.embeddings.create(model=MODEL, input=BEES)
        with up.http as http:
            refused = http.post("/v1/chat/completions", json=chat)
            order = http.post("/v1/rerank", json={"model": MODEL, "query": BEES, "documents": [STOCKS, BEES]})
    first, other, again = (each.embedding for each in answer.data)
    assert likeness(first, again) > 0.999 > likeness(first, other)
    assert likeness(first, alone.data[0].embedding) > 0.999
    assert answer.usage.prompt_tokens > 10
    if name == "vllm":
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")
        assert [each["index"] for each in order.json()["results"]] == [1, 0]
    else:
        assert order.status_code == 400
