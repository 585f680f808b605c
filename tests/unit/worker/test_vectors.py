"""`/v1/embeddings` and `/v1/rerank` over real HTTP: of the scripted engine, and of real servers."""

import asyncio
import base64
import math
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from rbee_runtime.worker.engines.served import answers
from rbee_runtime.worker.engines.vectors import shortened
from rbee_runtime.worker.surface.vectors import MOST_INPUTS
from tests.encoder_model import CONTEXT, WIDTH, encoder_model
from tests.unit.worker.fronts import KINDS, Front, front
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
@pytest.mark.parametrize(
    ("name", "given"),
    [("llama-cpp", EMBED), ("llama-server", (*EMBED, "--option", "pooling=mean")), ("vllm", EMBED)],
)
async def test_a_model_of_text_embeds(name: str, given: tuple[str, ...], tmp_path: Path) -> None:
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
            cut = await ai.embeddings.create(model=MODEL, input=BEES, dimensions=8) if name != "vllm" else None
        with up.http as http:
            refused = http.post("/v1/chat/completions", json=chat)
            order = http.post("/v1/rerank", json={"model": MODEL, "query": BEES, "documents": [STOCKS, BEES]})
    first, other, again = (each.embedding for each in answer.data)
    assert likeness(first, again) > 0.999 > likeness(first, other)
    assert likeness(first, alone.data[0].embedding) > 0.999
    assert answer.usage.prompt_tokens > 10
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_route"
    if cut is not None:
        assert cut.data[0].embedding == pytest.approx(shortened(first, 8), abs=1e-5)
    if name == "vllm":
        assert [each["index"] for each in order.json()["results"]] == [1, 0]
    else:
        assert order.status_code == 400


TEXTS = ["bees make honey", "who fell on monday", "the stock market fell", "nectar " * 30, "xyz"]


async def vectors_of(up: Front, *texts: str) -> list[Sequence[float]]:
    """Return the vectors of texts, by the official client."""
    async with up.client() as ai:
        found = await ai.embeddings.create(model=MODEL, input=[*texts])
    return [each.embedding for each in found.data]


@pytest.mark.engine
async def test_both_engines_of_llama_cpp_give_the_same_vectors(tmp_path: Path) -> None:
    """Of a model for vectors, which each of them takes for one; alone and among others, in steps that are full."""
    model = encoder_model(tmp_path / "encoder.gguf")
    theirs, ours = KINDS["llama-server"], KINDS["llama-cpp"]
    with front(theirs, tmp_path, *EMBED, model=model) as up:
        expected = await vectors_of(up, *TEXTS)
    with front(ours, tmp_path, model=model) as up:
        found = await vectors_of(up, *TEXTS)
        alone = [(await vectors_of(up, text))[0] for text in TEXTS]
        many = await asyncio.gather(*(vectors_of(up, *TEXTS * 50) for _ in range(8)))
        info = up.info()
    assert len(found[0]) == WIDTH
    assert info["context"] == CONTEXT
    for each in (found, alone, *(answer[-len(TEXTS) :] for answer in many)):
        assert all(likeness(one, other) > 0.9999 for one, other in zip(each, expected, strict=True))
    assert likeness(found[0], found[1]) < 0.999


@pytest.mark.engine
async def test_an_encoder_refuses_what_it_cannot_do_and_serves_on(tmp_path: Path) -> None:
    """No text, no ranks, no text longer than it reads; and who leaves takes nothing from the others."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
    long = {"model": MODEL, "input": ["bees", "honey " * CONTEXT]}
    with front(KINDS["llama-cpp"], tmp_path, model=encoder_model(tmp_path / "encoder.gguf")) as up, up.http as http:
        answers = [
            http.post("/v1/chat/completions", json=chat),
            http.post("/v1/completions", json={"model": MODEL, "prompt": "a"}),
            http.post("/v1/rerank", json={"model": MODEL, "query": "a", "documents": ["a"]}),
            http.post("/v1/embeddings", json=long),
            http.post("/v1/embeddings", json={"model": MODEL, "input": [1_000_000]}),
            http.post("/v1/embeddings", json={"model": MODEL, "input": "a", "dimensions": WIDTH + 1}),
        ]
        leaver = asyncio.create_task(vectors_of(up, *["bees make honey " * 30] * MOST_INPUTS))
        while not await asyncio.to_thread(up.busy):
            assert not leaver.done()
        leaver.cancel()
        left = time.monotonic()
        while await asyncio.to_thread(up.busy):
            assert time.monotonic() - left < 1
        served_on = await vectors_of(up, "bees")
    assert [answer.status_code for answer in answers] == [400] * 6
    codes = [answer.json()["error"]["code"] for answer in answers]
    assert codes == [*["unsupported_route"] * 3, "context_length_exceeded", None, None]
    assert f"input 1 has {CONTEXT + 2} tokens, this model reads {CONTEXT}" in answers[3].json()["error"]["message"]
    assert len(served_on) == 1


@pytest.mark.engine
def test_a_reranker_orders(tmp_path: Path) -> None:
    """By llama-server and a model that ranks: the same text has the same score, the best comes first."""
    model = encoder_model(tmp_path / "ranks.gguf", ranks=True)
    body = {"model": MODEL, "query": "who make honey", "documents": [*TEXTS, TEXTS[1]]}
    with front(KINDS["llama-server"], tmp_path, "--option", "task=rerank", model=model) as up, up.http as http:
        found = http.post("/v1/rerank", json=body).json()
        few = http.post("/v1/rerank", json=body | {"documents": TEXTS, "top_n": 2, "return_documents": True}).json()
    scores = {each["index"]: each["relevance_score"] for each in found["results"]}
    assert sorted(scores) == [*range(len(TEXTS) + 1)]
    assert scores[1] == pytest.approx(scores[len(TEXTS)], abs=1e-4)
    assert len({round(score, 4) for score in scores.values()}) == len(TEXTS)
    assert [*scores.values()] == sorted(scores.values(), reverse=True)
    best = [index for index in scores if index < len(TEXTS)][:2]
    assert [each["document"]["text"] for each in few["results"]] == [TEXTS[index] for index in best]
    assert found["usage"]["prompt_tokens"] > 20
