"""Clients and mock workers of `make bench-gateway`, and what is measured between them."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.gateway import answers, load, measures, mock
from benchmarks.gateway.answers import STREAM, WHOLE, Form
from benchmarks.gateway.load import Answer, BenchError, ClosedLoop, OpenLoop, Target
from benchmarks.gateway.running import Running, Told, Workers
from rbee_runtime.link import Link, Role
from tests.ports import free_ports
from tests.unit.certificates import issue_fleet

RIGHT = answers.body_of(STREAM)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine be late."""
    monkeypatch.setattr(load, "LATE_SECONDS", 20.0)
    monkeypatch.setattr(measures, "OFF", 100.0)


@pytest.mark.parametrize("form", [WHOLE, STREAM, Form(stream=True, chunks=7, gap=50)])
def test_a_request_says_how_to_answer(form: Form) -> None:
    """Both ends agree by what stands in the prompt."""
    head, _, body = answers.request(form, port=1, key="k", model="bench-a").partition(b"\r\n\r\n")
    assert b"Authorization: Bearer k" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert answers.wanted(body) == form
    assert json.loads(body).get("stream", False) == form.stream


def test_a_client_has_one_key_and_asks_for_each_model() -> None:
    """As clients do on their connections; keys are had in turn, and neighbours begin with different models."""
    clients = itertools.islice(Target("t", 1, ("a", "b")).clients(WHOLE), 3)
    asked = [[next(each).partition(b"\r\n\r\n") for _ in range(2)] for each in clients]
    keys = [[head.partition(b"Bearer ")[2][:1] for head, _, _ in each] for each in asked]
    models = [[json.loads(body)["model"] for _, _, body in each] for each in asked]
    assert keys == [[b"a"] * 2, [b"b"] * 2, [b"a"] * 2]
    assert models == [[*answers.MODELS], [*reversed(answers.MODELS)], [*answers.MODELS]]


def test_a_stream_has_its_tokens_its_usage_and_its_end() -> None:
    """As an OpenAI server sends it."""
    events = answers.body_of(STREAM).split(b"\n\n")[:-1]
    data = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert [len(each["choices"]) for each in data] == [1] * 100 + [0]
    assert data[99]["choices"][0]["finish_reason"] == "stop"
    assert data[100]["usage"]["completion_tokens"] == 100
    assert events[-1] == b"data: [DONE]"


@pytest.mark.parametrize(
    ("status", "body", "exact", "said"),
    [
        (200, RIGHT, True, ""),
        (200, RIGHT, False, ""),
        (200, RIGHT.replace(b'"id"', b'"own":1,"id"'), False, ""),
        (200, RIGHT.replace(b'"id"', b'"own":1,"id"'), True, "bytes that are not"),
        (200, RIGHT[:-1], True, "bytes that are not"),
        (200, RIGHT.removesuffix(answers.DONE), False, "a stream that ends with"),
        (200, RIGHT.replace(b" harbour", b"", 1), False, "99 tokens instead of 100"),
        (503, b'{"error": "busy"}', True, "status 503"),
    ],
)
def test_a_wrong_answer_is_found(status: int, body: bytes, exact: bool, said: str) -> None:
    """By its bytes where they are the worker's own, else by its tokens and its end."""
    fault = answers.fault(STREAM, status, body, exact=exact)
    assert said in fault
    assert bool(said) == bool(fault)


@contextlib.asynccontextmanager
async def _workers(link: Link = Link(Role.WORKER, "f")) -> AsyncIterator[Workers]:  # noqa: B008 - it is frozen
    """Run two mock workers, the second one with TLS if there are certificates."""
    first, control = free_ports(3)
    plain, tls = (first,), (first + 1,) if link.directory is not None else ()
    serving = asyncio.create_task(mock.serve(plain, tls, control, link))
    workers = Workers(plain, tls, control)
    while not serving.done():
        with contextlib.suppress(OSError):
            await workers.told()
            break
        await asyncio.sleep(0.01)
    try:
        yield workers
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _direct(workers: Workers, **changed: Any) -> Running:
    return Running(Target("direct", workers.plain[0], **changed), workers.plain)


@pytest.mark.parametrize("form", [WHOLE, STREAM])
@pytest.mark.parametrize("exact", [True, False])
async def test_connections_ask_again_until_the_time_is_over(form: Form, exact: bool) -> None:
    """All answers are right, and the worker saw as many requests."""
    async with _workers() as workers:
        rate = await ClosedLoop(_direct(workers, exact=exact).target, form).run(2, 0.05)
        told = await workers.told()
    assert rate.answers >= 2
    assert rate.per_second == pytest.approx(rate.answers / rate.seconds)
    assert (told.on(workers.plain[0]), told.open) == (rate.answers, 0)


async def test_requests_are_sent_at_their_times() -> None:
    """Whoever has been answered by then: streams that last are under way together."""
    form = Form(stream=True, chunks=4, gap=150)
    async with _workers() as workers:
        got = await OpenLoop(_direct(workers).target, form, 10, 0.001).run(5, spare=2)
        told = await workers.told()
    assert [answer.fault for answer in got] == [""] * 10
    assert all(answer.first > 0 for answer in got)
    assert (told.tokens, told.peak) == (40, 10)


async def test_an_answer_that_does_not_come_is_wrong() -> None:
    """It is counted as such once its time is over."""
    form = Form(stream=True, chunks=2, gap=2000)
    async with _workers() as workers:
        got = await OpenLoop(_direct(workers).target, form, 2, 0.001).run(0.2)
    assert [answer.fault for answer in got] == ["no answer within 0.2 s"] * 2


async def test_requests_that_are_sent_late_are_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends them had no core, and the gateway would look quicker than it is."""
    monkeypatch.setattr(load, "LATE_SECONDS", -1.0)
    async with _workers() as workers:
        with pytest.raises(BenchError, match=r"3 requests were sent in .* s instead of 0\.00: no core is free"):
            await OpenLoop(_direct(workers).target, WHOLE, 3, 0.001).run(5)


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy")
    writer.close()


async def _break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\nbusy")
    writer.close()


async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"what?\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("how", "said"), [(_refuse, "status 503"), (_break_off, "broke off after 4 bytes"), (_babble, "is not HTTP")]
)
async def test_what_is_no_answer_is_no_figure(how: Any, said: str) -> None:
    """The first wrong answer ends a closed loop with a sentence; an open one counts it."""
    async with await asyncio.start_server(how, "127.0.0.1", 0) as server:
        target = Target("odd", server.sockets[0].getsockname()[1])
        with pytest.raises(BenchError, match=f"odd answered wrong: .*{said}"):
            await ClosedLoop(target, WHOLE).run(1, 5)
        got = await OpenLoop(target, WHOLE, 1, 0.001).run(5)
        assert said in got[0].fault


async def test_nobody_there_is_a_sentence() -> None:
    """A gateway that takes no connection."""
    with pytest.raises(BenchError, match="gone takes no connection"):
        await ClosedLoop(Target("gone", free_ports(1)[0]), WHOLE).run(1, 1)


async def test_mock_workers_answer_as_workers_over_mutual_tls(tmp_path: Path) -> None:
    """A queen of the fleet is let in and sees the role worker; who shows no certificate is not."""
    pki = issue_fleet(tmp_path, "f")
    async with _workers(Link(Role.WORKER, "f", pki)) as workers:
        url = f"https://127.0.0.1:{workers.tls[0]}"
        async with Link(Role.QUEEN, "f", pki).client(timeout=httpx.Timeout(5), peer=Role.WORKER) as client:
            ready = await client.get(f"{url}/ready")
            odd = await client.get(f"{url}/odd")
            unclear = await client.post(f"{url}/v1/chat/completions", content=b"{}")
        async with httpx.AsyncClient(verify=False) as stranger:
            with pytest.raises(httpx.HTTPError):
                await stranger.get(f"{url}/ready")
    assert (ready.json()["ready"], odd.status_code, unclear.status_code) == (True, 404, 400)


@pytest.mark.parametrize(
    ("seen", "given", "said"),
    [
        ({"1": 50, "2": 50}, 100, ""),
        ({"1": 60, "2": 50}, 100, "100 answers, and its workers saw 110 requests"),
        ({"1": 100}, 100, "none of 100 requests to the workers on ports 2"),
        ({"1": 10}, 10, ""),
    ],
)
def test_workers_have_to_have_seen_what_was_answered(seen: dict[str, int], given: int, said: str) -> None:
    """An answer that no worker gave is none, and one that took two requests hides an error; all workers are used."""
    side = Running(Target("odd", 9), (1, 2))
    raised = pytest.raises(BenchError, match=said) if said else contextlib.nullcontext()
    with raised:
        measures._agree(side, Told({}, 0, 0, 0), Told(seen, 0, 0, 0), given)


def test_an_open_loop_with_errors_is_no_figure() -> None:
    """The sentence has the first of them."""
    with pytest.raises(BenchError, match="odd answered 1 of 2 wrong, first: late"):
        measures._demand(Running(Target("odd", 9), ()), [Answer(0.1), Answer(0.0, "late")])


async def test_a_round_has_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is quick enough is asked at a steady pace; without a gateway there is no price of a chunk."""
    for name, value in {"CONNECTIONS": 2, "WARM_SECONDS": 0.01, "PACE": 20, "LIVE": 4, "RAMP_SECONDS": 0.1}.items():
        monkeypatch.setattr(measures, name, value)
    async with _workers() as workers:
        direct = _direct(workers)
        got = await measures.sample(direct, workers, 0.1)
        price = await measures.live(direct, workers, 0.2)
    assert (got.core, got.chunk, price) == (None, None, 0.0)
    assert got.p50 is not None
    assert got.p99 is not None
    assert 0 < got.p50 <= got.p99


async def test_streams_together_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if all were under way at the same time."""
    sizes = {"TOGETHER": 20, "TOGETHER_RAMP": 0.1, "TOGETHER_GAP": 250, "TOGETHER_CHUNKS": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(measures, name, value)
    async with _workers() as workers:
        assert await measures.together(_direct(workers), workers) == (20, "")
        monkeypatch.setattr(measures, "TOGETHER_GAP", 1)
        with pytest.raises(BenchError, match="of 20 streams through direct were under way together"):
            await measures.together(_direct(workers), workers)
