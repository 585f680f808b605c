"""The chat route over real HTTP, with fake engines behind it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from rbee_runtime import http_connection
from rbee_runtime.errors import EngineCrashedError
from rbee_runtime.testing.fake_engine import GARBAGE, FakeEngine, read_script
from rbee_runtime.worker.engines import ChatRequest, Delta
from rbee_runtime.worker.surface import body
from tests.unit.worker.serving import MODEL, TOKEN, served


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class BreakingEngine(FakeEngine):
    """Gives some tokens and then raises."""

    def __init__(self, error: Exception, tokens: int) -> None:
        super().__init__(read_script({}), slots=1, context=64)
        self._error, self._tokens = error, tokens

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        for _ in range(self._tokens):
            yield Delta(text="x")
        raise self._error


async def test_a_whole_answer_has_text_and_usage() -> None:
    """Without `stream` one JSON object comes back."""
    async with served("text=sweet honey,tokens_per_s=0") as worker:
        answer = (await worker.ask()).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    assert answer["choices"][0]["message"]["content"] == "sweet honey"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 5 + 2


async def test_a_stream_has_role_text_end_usage_done() -> None:
    """The order of events is what OpenAI clients expect."""
    async with served("tokens_per_s=0") as worker:
        answer = await worker.ask(stream=True, max_tokens=2, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    role, first, second, end, usage, done = events(answer.text)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in (first, second)] == ["tok0 ", "tok1 "]
    assert [chunk["choices"][0]["finish_reason"] for chunk in (second, end)] == [None, "length"]
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 2, "[DONE]")


async def test_the_official_client_understands_us() -> None:
    """OpenAI's own Python client streams, asks and raises its own errors."""
    async with served("text=sweet honey,tokens_per_s=0") as worker:
        client = openai.AsyncOpenAI(
            base_url=f"{worker.client.base_url}/v1", api_key="x", default_headers={"x-rbee-token": TOKEN}
        )
        ask = client.chat.completions.create
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
        async with client:
            stream = await ask(model=MODEL, messages=messages, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            whole = await ask(model=MODEL, messages=messages)
            with pytest.raises(openai.NotFoundError):
                await ask(model="other", messages=messages)
            with pytest.raises(openai.BadRequestError):
                await ask(model=MODEL, messages=messages, temperature=9)
    assert text == whole.choices[0].message.content == "sweet honey"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(stream: bool) -> None:
    """After the client is gone the only slot is free again, also without `stream`."""
    async with served("fail=hang_after_1") as worker:
        ask = asyncio.create_task(worker.ask(stream=stream))
        await worker.until(in_flight=1)
        await asyncio.sleep(0.05)
        ask.cancel()
        await asyncio.gather(ask, return_exceptions=True)
        await worker.until(in_flight=0)
        metrics = (await worker.client.get("/metrics")).text
    assert 'requests_total{outcome="client_gone"} 1' in metrics


async def test_a_neighbour_is_untouched_by_a_client_that_leaves() -> None:
    """The other answer of the same worker is complete."""
    async with served("tokens_per_s=100,slots=2") as worker:
        leaving = asyncio.create_task(worker.ask(stream=True, max_tokens=1000))
        staying = asyncio.create_task(worker.ask(max_tokens=100))
        await worker.until(in_flight=2)
        leaving.cancel()
        answer = (await staying).json()
    assert answer["choices"][0]["message"]["content"].split() == [f"tok{index}" for index in range(100)]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": "w " * 90}]}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "w " * 90}], "stream": True}, 400, "context_length_exceeded"),
        ({"functions": [{"name": "x"}]}, 400, "unsupported_parameter"),
    ],
)
async def test_refusals_are_openai_errors(fields: dict[str, object], status: int, code: str) -> None:
    """A refusal has its own status and code, also when a stream was asked for."""
    async with served() as worker:
        answer = await worker.ask(**fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_beyond_the_limit_is_a_413(announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large is refused by its length header, or once too much has come."""
    monkeypatch.setattr(body, "MAX_BYTES", 1000)

    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(3):
            yield b" " * 500

    async with served() as worker:
        content = b" " * 1500 if announced else pieces()
        answer = await worker.client.post("/v1/chat/completions", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_body_that_does_not_arrive_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow sender is answered, not waited for."""
    monkeypatch.setattr(body, "SECONDS", 0.1)
    async with served() as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-rbee-token: {TOKEN}\r\ncontent-length: 5\r\n\r\n"
        writer.write(head.encode())
        status = await asyncio.wait_for(reader.readline(), 20)
        writer.close()
    assert b" 408 " in status


async def test_a_client_that_stops_reading_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe does not hold a slot for longer than a connection may take nothing."""
    monkeypatch.setattr(http_connection, "TAKING_SECONDS", 0.2)
    async with served(f"text={'x' * 20000},tokens=5000,tokens_per_s=0") as worker:
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port, limit=1024)
        content = json.dumps(worker.chat(stream=True)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-rbee-token: {TOKEN}\r\ncontent-length: {len(content)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + content)
        await worker.until(in_flight=1)
        await worker.until(in_flight=0)
        writer.transport.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_breaks_first_is_a_500(stream: bool) -> None:
    """Before the first token an error still has a status of its own."""
    async with served(engine=BreakingEngine(EngineCrashedError("gone"), 0)) as worker:
        answer = await worker.ask(stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")
        assert worker.worker.stop.is_set()


@pytest.mark.parametrize("error", [EngineCrashedError("gone"), ZeroDivisionError("a mistake")])
async def test_an_engine_that_breaks_later_is_one_event(error: Exception) -> None:
    """After the first token the stream ends with an error event and without [DONE]."""
    async with served(engine=BreakingEngine(error, 2)) as worker:
        answer = await worker.ask(stream=True)
    *_, last = events(answer.text)
    assert last["error"]["code"] == "engine_failed"
    assert "[DONE]" not in answer.text
    assert str(error) not in answer.text


@pytest.mark.parametrize("stream", [True, False])
async def test_garbage_goes_out_as_it_is(stream: bool) -> None:
    """The fake engine's nonsense reaches the caller, so that the queen's guard can be tested."""
    async with served("fail=garbage") as worker:
        answer = await worker.ask(stream=stream)
    assert answer.content == GARBAGE


async def test_an_answer_cut_by_the_process_ends_in_an_error() -> None:
    """When draining takes too long, open streams get an event that says so."""
    async with served("tokens_per_s=100") as worker:
        ask = asyncio.create_task(worker.ask(stream=True, max_tokens=1000))
        await worker.until(in_flight=1)
        await asyncio.sleep(0.1)
        worker.worker.cut.set()
        answer = await ask
    assert events(answer.text)[-1]["error"]["code"] == "worker_stopped"


async def test_answers_keep_the_connection_open() -> None:
    """One connection serves several answers, streams and refusals included."""
    async with served("tokens_per_s=0") as worker:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            base_url=worker.client.base_url, headers=worker.client.headers, limits=limits
        ) as one:
            for fields in ({}, {"stream": True}, {"tools": [1]}, {}):
                answer = await one.post("/v1/chat/completions", json=worker.chat(**fields))
                assert answer.headers.get("connection") != "close"
