"""A worker goes on with an assistant's text: what it takes, what its engine is asked for, and what comes of it."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway import usage
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.testing.fake_engine import FakeEngine, read_script
from rbee_runtime.worker.engines import ChatRequest, Delta, Finish, Message, Usage
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from rbee_runtime.worker.engines.served import asking
from rbee_runtime.worker.engines.served.command import Command
from rbee_runtime.worker.engines.served.llama_server import LlamaServer
from rbee_runtime.worker.engines.served.vllm import Vllm
from rbee_runtime.worker.surface.openai import ChatBody, request_of
from tests.templated_model import THINKING, templated_model
from tests.unit.gateway.gateway import Gate, gateway
from tests.unit.worker.fronts import KINDS, Front, front
from tests.unit.worker.serving import MODEL, TOKEN, served
from tests.unit.worker.test_served_dialects import PLACE, launch, write_model

HI: dict[str, Any] = {"role": "user", "content": "hi there"}
BEGUN: dict[str, Any] = {"role": "assistant", "content": "tok0 tok1 "}
GOES_ON: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": messages or (HI, BEGUN), **fields}
    return request_of(msgspec.json.decode(json.dumps(body), type=ChatBody))


def test_the_fields_are_vllm_s() -> None:
    """Both together, or neither."""
    said = (Message("user", "hi there"), Message("assistant", "tok0 tok1 "))
    assert request(**GOES_ON) == ChatRequest(said, continues=True)
    assert not request().continues
    assert not request(continue_final_message=False, add_generation_prompt=True).continues


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ((HI, BEGUN), {"continue_final_message": True}, "continue_final_message"),
        ((HI, BEGUN), {"add_generation_prompt": False}, "add_generation_prompt"),
        ((HI,), GOES_ON, "continue_final_message"),
        ((HI, {"role": "assistant", "content": ""}), GOES_ON, "continue_final_message"),
        ((HI, BEGUN), GOES_ON | {"grammar": 'root ::= "x"'}, "continue_final_message"),
        ((HI, BEGUN), GOES_ON | {"response_format": {"type": "json_object"}}, "continue_final_message"),
        ((HI, BEGUN), GOES_ON | {"tools": [{"type": "function", "function": {"name": "f"}}]}, "continue_final_message"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(messages: Any, fields: dict[str, Any], param: str) -> None:
    """With the field, and before any engine hears of it."""
    with pytest.raises(RequestError) as refused:
        request(*messages, **fields)
    assert (refused.value.status, refused.value.param) == (400, param)


async def test_the_fake_engine_goes_on_in_its_script() -> None:
    """The whole answer is the same in one part and in two, and so is its count."""
    async with served("tokens_per_s=0,tokens=4") as worker:
        whole = (await worker.ask()).json()
        rest = (await worker.ask(messages=[HI, BEGUN], **GOES_ON)).json()
        body = {"model": MODEL, "prompt": "Count: tok0 ", "max_tokens": 2}
        text = (await worker.client.post("/v1/completions", json=body)).json()
    said = [each["choices"][0]["message"]["content"] for each in (whole, rest)]
    assert said[0] == BEGUN["content"] + said[1]
    assert whole["usage"]["total_tokens"] == rest["usage"]["total_tokens"]
    assert text["choices"][0]["text"] == "tok1 tok2 "


@pytest.mark.parametrize(("messages", "fields", "said"), [([HI, BEGUN], GOES_ON, True), ([HI, BEGUN], {}, False)])
async def test_a_stream_that_goes_on_says_so(messages: list[Any], fields: dict[str, Any], *, said: bool) -> None:
    """So that nobody takes a new beginning, by a release that does not know the fields, for the rest."""
    async with served("tokens_per_s=0,tokens=4") as worker:
        answer = await worker.ask(messages=messages, stream=True, **fields)
    assert (usage.GOES_ON.decode() in answer.headers) is said


class CountingEngine(FakeEngine):
    """Says how many tokens it has by now."""

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        yield Delta("🐝", produced=3)
        yield Delta("a", produced=4)
        yield Delta(finish=Finish.STOP, usage=Usage(1, 4), produced=4)


@pytest.mark.parametrize(("header", "told"), [("each", [3, 4]), ("1", []), (None, [])])
async def test_a_worker_tells_its_progress_where_it_is_asked_to(header: str | None, told: list[int]) -> None:
    """Behind each piece, for the queen alone: to clients it is a comment."""
    engine = CountingEngine(read_script({}), slots=1, context=64)
    headers = {} if header is None else {usage.HEADER.decode(): header}
    async with served(engine=engine) as worker:
        answer = await worker.client.post("/v1/chat/completions", json=worker.chat(stream=True), headers=headers)
    found = [usage.produced(each) for each in answer.content.split(b"\n\n") if usage.produced(each)]
    assert (found, b": usage 1 4" in answer.content) == (told, header is not None)


def test_vllm_and_llama_server_are_told_by_the_same_fields() -> None:
    """They render the conversation themselves."""
    for words in (Vllm.words, LlamaServer.words):
        body = asking.chat_body("m", request(**GOES_ON), words)
        assert {name: body[name] for name in GOES_ON} == GOES_ON
        assert body["messages"] == [HI, BEGUN]
        assert not GOES_ON.keys() & asking.chat_body("m", request(), words).keys()


def test_an_engine_that_cannot_says_so(tmp_path: Path) -> None:
    """One that nobody knows, and vLLM where it would take the rest of an answer for thoughts."""
    with pytest.raises(RequestError, match="this engine does not take it"):
        asking.chat_body("m", request(**GOES_ON), Command.words)
    found = Vllm(launch(tmp_path, "vllm", write_model(tmp_path), reasoning_parser="qwen3"))
    found.start(PLACE)
    assert found.chat({}, request()).body == {}
    with pytest.raises(RequestError, match="a model that thinks"):
        found.chat({}, request(**GOES_ON))


POEM: list[dict[str, Any]] = [{"role": "user", "content": "Write a short poem about the sea."}]
ASKED: dict[str, Any] = {"model": MODEL, "stream": True, "temperature": 0, "max_tokens": 96}
PROMPT = 38
"""Tokens of the conversation."""


async def pieces(up: Front, **fields: Any) -> list[str]:
    """Return the likeliest answer in pieces."""
    async with up.client() as ai:
        stream = await ai.chat.completions.create(**ASKED | fields)
        return [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]


@pytest.mark.engine
@pytest.mark.parametrize("name", ["llama-cpp", "llama-server", "vllm"])
async def test_a_real_engine_goes_on_with_the_same_text(name: str, tmp_path: Path) -> None:
    """Whichever token was the last one, the likeliest rest is the one that would have followed."""
    if KINDS[name].missing:
        pytest.skip(KINDS[name].missing)
    with front(KINDS[name], tmp_path) as up:
        whole = await pieces(up, messages=POEM, max_tokens=24)
        for cut in (1, 2, 5, 11, 23):
            begun = {"role": "assistant", "content": "".join(whole[: cut + 1])}
            rest = await pieces(up, messages=[*POEM, begun], max_tokens=24 - cut, extra_body=GOES_ON)
            assert begun["content"] + "".join(rest) == "".join(whole)


@pytest.mark.engine
async def test_a_model_that_thinks_goes_on_with_its_answer(llama_engine_dir: Path, tmp_path: Path) -> None:
    """Its thoughts are over, be it that the prompt opens them, and none of the rest is taken for one."""
    model = templated_model(tmp_path / "thinking.gguf", THINKING)
    spec = WorkerSpec(id="llama-000001", model=MODEL, engine="llama-cpp", context=512)
    engine = LlamaEngine(spec, model, llama_engine_dir)
    async with served(engine=engine) as worker:
        begun = {"role": "assistant", "content": "The sea"}
        asked = {"messages": [*POEM, begun], "max_tokens": 9, "temperature": 0, **GOES_ON}
        message = (await worker.ask(reasoning_effort="low", **asked)).json()["choices"][0]["message"]
    assert message["content"]
    assert "reasoning_content" not in message


@pytest.mark.engine
async def test_a_killed_engine_s_stream_is_whole(tmp_path: Path) -> None:
    """Of two real workers one is killed in the middle: text and count are those of a stream that nobody interrupts."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    kind, token = KINDS["llama-cpp"], f"x-rbee-token: {TOKEN}\r\n".encode()
    with front(kind, folders[0]) as dies, front(kind, folders[1]) as stays:
        whole = await pieces(stays, messages=POEM)
        urls = [f"http://127.0.0.1:{up.port}" for up in (dies, stays)]
        async with gateway(Gate(urls, continued=True), headers=token) as g:
            heard = ""
            async with g.client.stream("POST", g.url, json=ASKED | {"messages": POEM}) as answer:
                async for piece in answer.aiter_text():
                    heard += piece
                    if heard.count("data: ") > 9 and dies.process.poll() is None:
                        dies.process.kill()
    chunks = [json.loads(line[6:]) for line in heard.split("\n\n") if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks) == "".join(whole)
    assert (g.outcomes[0].continued, heard.count(": continued"), heard.count("[DONE]")) == (1, 1, 1)
    assert g.gate.spent == [(PROMPT, 96)]
