"""`/tokenize` over real HTTP."""

from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from tests.unit.worker.serving import MODEL, served

HI = [{"role": "user", "content": "hi there"}]


@pytest.mark.parametrize(
    ("body", "count"),
    [({"content": "a b c"}, 3), ({"prompt": "a b", "model": "x"}, 2), ({"messages": HI}, 5), ({"content": ""}, 0)],
)
async def test_texts_and_conversations_are_counted(body: dict[str, Any], count: int) -> None:
    """Both servers' words for a text, and a conversation as its prompt would be."""
    async with served() as worker:
        answer = (await worker.client.post("/tokenize", json=body)).json()
    assert (answer["count"], len(answer["tokens"]), answer["max_model_len"]) == (count, count, 64)


@pytest.mark.parametrize("body", [{}, {"content": "a", "prompt": "b"}, {"content": 5}, {"messages": []}, []])
async def test_what_is_no_text_is_a_400(body: Any) -> None:
    """A sentence says what is wanted."""
    async with served() as worker:
        answer = await worker.client.post("/tokenize", json=body)
    assert (answer.status_code, bool(answer.json()["error"]["message"])) == (400, True)


@pytest.mark.engine
async def test_a_real_model_s_tokens_are_those_of_its_prompts(llama_engine_dir: Path, smol_model: Path) -> None:
    """What is counted is what an answer's usage says, and a text that no context holds is refused with a number."""
    spec = WorkerSpec(id="llama-000001", model=MODEL, engine="llama-cpp", context=512)
    async with served(engine=LlamaEngine(spec, smol_model, llama_engine_dir)) as worker:
        counted = (await worker.client.post("/tokenize", json={"messages": HI})).json()
        asked = (await worker.ask(max_tokens=1)).json()
        long = await worker.client.post("/tokenize", json={"content": "x" * 9_000_000})
    assert counted["count"] == asked["usage"]["prompt_tokens"]
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
