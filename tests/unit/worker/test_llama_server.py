"""What llama-server is there for beside text: pictures, adapters and drafts, each with the real program."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import gguf
import numpy as np
import openai
import pytest

from rbee_deploy.model_files import lab_model
from tests.pictures import base64_of, data_url, png
from tests.projector_model import TOKENS, projector_model
from tests.unit.worker.fronts import KINDS, Front, front
from tests.unit.worker.serving import MODEL, TOKEN

pytestmark = pytest.mark.engine

KIND = KINDS["llama-server"]
WIDTH, LAYERS = 576, 30
"""Of the lab's model: values per token and per query, and how often it is looked at."""

RED, BLUE = data_url(png()), data_url(png(colour=(0, 0, 255)))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Return a worker whose model lies in a folder with a projector."""
    folder = tmp_path_factory.mktemp("seeing")
    model = folder / "models" / "model.gguf"
    model.parent.mkdir()
    model.symlink_to(lab_model())
    projector_model(model.parent / "mmproj-model.gguf", width=WIDTH)
    with front(KIND, folder, model=model) as up:
        yield up


def looking_at(*urls: str) -> list[Any]:
    """Return messages that ask about pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *pictures]}]


async def said_of(up: Front, *urls: str) -> str:
    """Return the likeliest answer about pictures."""
    async with up.client() as ai:
        answer = await ai.chat.completions.create(model=MODEL, messages=looking_at(*urls), temperature=0, max_tokens=12)
    return answer.choices[0].message.content or ""


async def test_the_model_sees_the_picture(seeing: Front) -> None:
    """Another picture has another answer, the same one the same; several are read, and each takes its tokens."""
    red, blue, both, nothing = [await said_of(seeing, *urls) for urls in ([RED], [BLUE], [RED, BLUE], [])]
    again = await said_of(seeing, RED)
    assert red == again
    assert len({red, blue, both, nothing}) == 4
    async with seeing.client() as ai:
        counts = [
            (await ai.chat.completions.create(model=MODEL, messages=looking_at(*urls), max_tokens=1)).usage
            for urls in ([], [RED])
        ]
    assert counts[0] is not None
    assert counts[1] is not None
    assert counts[1].prompt_tokens >= counts[0].prompt_tokens + TOKENS


async def test_a_picture_comes_by_every_route_of_conversations(seeing: Front) -> None:
    """By the stream, by the Responses API, and by Anthropic's client: the same answer."""
    expected = await said_of(seeing, RED)
    headers = {"x-rbee-token": TOKEN}
    async with seeing.client() as ai:
        stream = await ai.chat.completions.create(
            model=MODEL, messages=looking_at(RED), temperature=0, max_tokens=12, stream=True
        )
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        parts: list[Any] = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": RED}]
        response = await ai.responses.create(
            model=MODEL, input=[{"role": "user", "content": parts}], temperature=0, max_output_tokens=12
        )
    url = f"http://127.0.0.1:{seeing.port}"
    async with anthropic.AsyncAnthropic(base_url=url, api_key="x", default_headers=headers, max_retries=0) as ai:
        blocks: list[Any] = [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64_of(png())}},
        ]
        message = await ai.messages.create(
            model=MODEL, messages=[{"role": "user", "content": blocks}], max_tokens=12, extra_body={"temperature": 0}
        )
    assert [streamed, response.output_text] == [expected] * 2
    assert message.content[0].type == "text"
    assert message.content[0].text == expected


async def test_a_picture_that_cannot_be_read_is_its_client_s_error(seeing: Front) -> None:
    """A damaged one, and one where its tokens would have to be known; the others are served on."""
    damaged = data_url(png()[:40] + b"\0" * 30)
    answers = await asyncio.gather(
        said_of(seeing, damaged), said_of(seeing, RED), said_of(seeing, damaged), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [openai.BadRequestError, str, openai.BadRequestError]
    with seeing.http as http:
        counted = http.post("/tokenize", json={"messages": looking_at(RED)})
    assert counted.status_code == 400
    assert "leave it out" in counted.json()["error"]["message"]


def adapter(path: Path) -> Path:
    """Write an adapter by chance for the queries of the lab's model."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8)
    chance = np.random.default_rng(3)
    for layer in range(LAYERS):
        for name, shape in (("lora_a", (4, WIDTH)), ("lora_b", (WIDTH, 4))):
            writer.add_tensor(f"blk.{layer}.attn_q.weight.{name}", chance.normal(0, 1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def told(up: Front) -> str:
    """Return the likeliest story of a bee."""
    async with up.client() as ai:
        answer = await ai.completions.create(model=MODEL, prompt="A bee is", temperature=0, max_tokens=40)
    return answer.choices[0].text


async def test_adapters_change_answers_and_drafts_do_not(tmp_path: Path) -> None:
    """An adapter is another model; a draft, here by the model itself, is accepted and leaves each token what it was."""
    with front(KIND, tmp_path) as up:
        plain = await told(up)
    with front(KIND, tmp_path, "--option", f"lora={adapter(tmp_path / 'bee.gguf')}") as up:
        adapted = await told(up)
    with front(KIND, tmp_path, "--option", f"draft={lab_model()}") as up:
        drafted = await told(up)
    log = up.log.read_text()
    assert adapted != plain
    assert drafted == plain
    rates = [float(rate) for rate in re.findall(r"draft acceptance(?: rate)? *= *([0-9.]+)", log)]
    assert rates, log[-2000:]
    assert max(rates) > 0.5
