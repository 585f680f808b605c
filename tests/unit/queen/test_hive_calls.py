"""What the queen asks hosts for an operator: a real listener answers in the place of a hive."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rbee_runtime.config import FleetFile
from rbee_runtime.errors import RequestError
from rbee_runtime.link import Link, Role
from rbee_runtime.queen import admin, hive_calls
from rbee_runtime.queen.hive_calls import HiveCalls
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_link import listening

Maker = Callable[[FleetFile], Fixture]


class Hive:
    """Answers like a hive; `open` counts the streams that run."""

    def __init__(self) -> None:
        self.open = 0
        self.asked: list[str] = []
        self.breaks_off = False

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/api/v1/{path:path}", self._answer)])

    async def _answer(self, request: Request) -> Response:
        self.asked.append(f"{request.url.path}?{request.url.query}")
        last = request.path_params["path"].rsplit("/", 1)[-1]
        if last == "devices" and self.breaks_off:
            return StreamingResponse(_broken(), headers={"content-length": "100"})
        if last == "models":
            return JSONResponse({"error": {"message": "no models today"}}, 503, {"retry-after": "5"})
        if last == "events" or "follow" in request.query_params:
            return StreamingResponse(self._endless(request.headers.get("last-event-id", "")))
        return PlainTextResponse("a line") if last == "logs" else JSONResponse([{"id": "cpu"}])

    async def _endless(self, last: str) -> AsyncIterator[str]:
        self.open += 1
        try:
            yield f"data: after {last}\n\n"
            await asyncio.sleep(60)
        finally:
            self.open -= 1


async def _broken() -> AsyncIterator[str]:
    yield "["
    raise ConnectionResetError


@asynccontextmanager
async def operator(q: Fixture, hive: Hive) -> AsyncIterator[tuple[httpx.AsyncClient, HiveCalls]]:
    """Give a client of the admin API, behind which hive `a` is heard and answers."""
    link = Link(Role.QUEEN, "laptop", token="t")
    async with listening(hive.app(), link) as url, link.client(timeout=httpx.Timeout(5)) as to_hives:
        q.controller.heartbeat(q.report("a", url=url))
        calls = HiveCalls(q.controller, to_hives, signature="1-0123456789abcdef")
        async with (
            listening(admin.build(q.controller, calls, q.usage), link) as front,
            httpx.AsyncClient(base_url=front, timeout=20, trust_env=False) as client,
        ):
            yield client, calls


async def test_answers_pass_as_they_are(queen: Maker) -> None:
    """Devices, logs and refusals of a hive reach the operator; the query is bounded before it is asked."""
    q, hive = queen(fleet(model(), hives=("a",))), Hive()
    async with operator(q, hive) as (client, _):
        worker = q.workers("a")[0]
        assert (await client.get("/api/v1/hives/a/devices")).json() == [{"id": "cpu"}]
        refused = await client.get("/api/v1/hives/a/models")
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "no models today")
        assert refused.headers["retry-after"] == "5"
        assert (await client.get(f"/api/v1/workers/{worker}/logs?lines=7")).text == "a line"
        assert hive.asked[-1] == f"/api/v1/workers/{worker}/logs?lines=7"
        asked = len(hive.asked)
        for query in ("lines=0", "lines=2001", "follow=2"):
            assert (await client.get(f"/api/v1/workers/{worker}/logs?{query}")).status_code == 400
        assert len(hive.asked) == asked


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("hives/none/devices", 404),
        ("hives/b/devices", 503),
        ("workers/none/logs", 404),
        ("workers/none", 404),
    ],
)
async def test_what_cannot_be_asked_is_one_sentence(queen: Maker, path: str, status: int) -> None:
    """A hive or worker that does not exist is told apart from one that is silent."""
    q = queen(fleet(model(), hives=("a", "b")))
    async with operator(q, Hive()) as (client, _):
        answer = await client.get(f"/api/v1/{path}")
    assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True)


async def test_who_names_a_model_for_a_worker_gets_its_workers(queen: Maker) -> None:
    """A person knows the model's name first."""
    q = queen(fleet(model(), hives=("a",)))
    async with operator(q, Hive()) as (client, _):
        answer = await client.get("/api/v1/workers/m/logs")
    said = f"there is no worker 'm'; the workers of model m are {', '.join(q.workers('a'))}"
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, said)


async def test_a_silent_hive_is_named(queen: Maker) -> None:
    """503 with the address and a time to ask again."""
    q = queen(fleet(model(), hives=("a",)))
    async with operator(q, Hive()) as (client, _):
        q.controller.heartbeat(q.report("a", url="http://127.0.0.1:9"))
        answer = await client.get("/api/v1/hives/a/devices")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "hive a at http://127.0.0.1:9 does not answer" in answer.json()["error"]["message"]


async def test_a_stream_ends_with_its_reader_and_with_the_queen(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hive's side is closed when the operator goes; a queen that leaves ends the rest; too many are refused."""
    monkeypatch.setattr(hive_calls, "MAX_STREAMS", 1)
    q, hive = queen(fleet(model(), hives=("a",))), Hive()
    async with operator(q, hive) as (client, calls), asyncio.timeout(30):
        url, headers = "/api/v1/hives/a/events", {"last-event-id": "x-1"}
        async with client.stream("GET", url, headers=headers) as answer:
            assert await anext(answer.aiter_lines()) == "data: after x-1"
            assert (await client.get(url)).status_code == 429
        while hive.open:  # noqa: ASYNC110 - the stand-in is polled
            await asyncio.sleep(0.02)
        async with client.stream("GET", f"/api/v1/workers/{q.workers('a')[0]}/logs?follow=1") as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            calls.stopping.set()
            assert [line async for line in lines if line] == []


async def test_a_hive_that_breaks_off_is_a_silent_one(queen: Maker) -> None:
    """An answer that ends in the middle is 503 with a sentence, no error of ours."""
    q, hive = queen(fleet(model(), hives=("a",))), Hive()
    hive.breaks_off = True
    async with operator(q, hive) as (client, _):
        answer = await client.get("/api/v1/hives/a/devices")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hive_unreachable")


async def test_a_refusal_without_an_end_is_cut_off(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what a hive says instead of a stream may fill no more memory than any other answer."""
    monkeypatch.setattr(hive_calls, "MAX_BYTES", 10)
    q = queen(fleet(model(), hives=("a",)))
    async with operator(q, Hive()) as (_, calls):
        with pytest.raises(RequestError, match="more than 10 bytes"):
            await calls.stream("a", "models", headers={})
