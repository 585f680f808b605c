"""Models that an operator has fetched to a hive's disk."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rbee_runtime.config import FleetFile
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import FetchReport, ModelReport
from rbee_runtime.queen import admin
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.pulls import is_there
from rbee_runtime.states import FetchState
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_link import listening

Maker = Callable[[FleetFile], Fixture]
SOURCE = "hf:org/repo"
COLD = model("org/m:q4", source=SOURCE, engine="llama-cpp", replicas_min=0)
PULL = "/api/v1/hives/a/models/org%2Fm%3Aq4/pull"


class Disk:
    """A hive's routes about models, as far as they are asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.method == "DELETE":
            return JSONResponse({"error": {"message": "model is used by m-1"}}, 409)
        return JSONResponse({"name": "org/m:q4", "intact": True})


@asynccontextmanager
async def operator(q: Fixture, disk: Disk) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the admin API, behind which hive `a` is heard and answers."""
    link = Link(Role.QUEEN, "laptop", token="t")
    async with listening(disk.app(), link) as url, link.client(timeout=httpx.Timeout(5)) as to_hives:
        q.controller.heartbeat(q.report("a", url=url))
        app = admin.build(q.controller, HiveCalls(q.controller, to_hives, signature="1-0123456789abcdef"), q.usage)
        async with listening(app, link) as front, httpx.AsyncClient(base_url=front, trust_env=False) as client:
            yield client


def wanted(q: Fixture) -> list[str]:
    return [spec.name for spec in q.documents.document("a").models]


def follow(q: Fixture, *, models: tuple[ModelReport, ...] = (), fetches: tuple[FetchReport, ...] = ()) -> None:
    """Let hive `a` follow its document and tell what it has."""
    document = q.documents.document("a")
    q.controller.heartbeat(
        q.report("a", epoch=document.epoch, revision=document.revision, models=models, fetches=fetches)
    )
    q.controller.publish()


async def test_a_pull_is_wanted_until_the_hive_has_it(queen: Maker) -> None:
    """A model without a worker is in the document until it is on disk; asking again then changes nothing."""
    q, disk = queen(fleet(COLD, hives=("a",))), Disk()
    async with operator(q, disk) as client:
        before = wanted(q)
        answer = (await client.post(PULL)).json()
        told = {"hive": "a", "model": "org/m:q4", "source": SOURCE, "held": False, "pulled": True}
        assert (before, answer, wanted(q)) == ([], told, ["org/m:q4"])
        follow(q, fetches=(FetchReport(name="org/m:q4", state=FetchState.FETCHING),))
        assert wanted(q) == ["org/m:q4"]
        follow(q, models=(ModelReport(name="org/m:q4", size=1, source=SOURCE),))
        assert wanted(q) == []
        assert (await client.post(PULL)).json()["held"] is True
        assert wanted(q) == []


async def test_a_pull_that_is_cancelled_is_wanted_no_more(queen: Maker) -> None:
    """The next document of the hive is without it, and a second cancel says that there was none."""
    q = queen(fleet(COLD, hives=("a",)))
    async with operator(q, Disk()) as client:
        await client.post(PULL)
        assert [(await client.delete(PULL)).json()["pulled"] for _ in range(2)] == [True, False]
    assert wanted(q) == []


def test_a_hive_that_has_not_heard_yet_has_nothing_to_say(queen: Maker) -> None:
    """A model that lies there from before the document is no answer to it."""
    q = queen(fleet(COLD, hives=("a",)))
    q.documents.pulls.ask("a", "org/m:q4")
    q.controller.publish()
    q.controller.heartbeat(q.report("a", models=(ModelReport(name="org/m:q4", size=1, source=SOURCE),)))
    q.controller.publish()
    assert wanted(q) == ["org/m:q4"]


@pytest.mark.parametrize(
    ("held", "fetch", "there"),
    [
        ("", None, True),
        (SOURCE, None, True),
        (SOURCE, FetchState.READY, True),
        (SOURCE, FetchState.FETCHING, False),
        ("hf:org/other", None, False),
    ],
)
def test_a_model_of_another_source_is_another_one(held: str, fetch: FetchState | None, there: bool) -> None:
    """Whole, of this source, and nothing on its way."""
    fetches = () if fetch is None else (FetchReport(name="m", state=fetch),)
    assert is_there("m", SOURCE, (ModelReport(name="m", size=1, source=held),), fetches) is there


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/api/v1/hives/none/models/org%2Fm%3Aq4/pull", 404, "there is no hive 'none'"),
        ("POST", "/api/v1/hives/b/models/org%2Fm%3Aq4/pull", 503, "hive b has not been heard yet"),
        ("POST", "/api/v1/hives/a/models/other/pull", 404, "'other' is not in the inventory"),
        ("POST", "/api/v1/hives/a/models/f/pull", 409, "model f has no files"),
        ("GET", "/api/v1/hives/a/models/..%2Fdesired", 404, "model name '../desired' is not allowed"),
        ("DELETE", "/api/v1/hives/a/models/org%2Fm%3Aq4", 409, "model is used by m-1"),
    ],
)
async def test_what_cannot_be_done_is_one_sentence(
    queen: Maker, method: str, path: str, status: int, said: str
) -> None:
    """The queen's own, or the hive's as it is."""
    q, disk = queen(fleet(COLD, model("f"), hives=("a", "b"))), Disk()
    async with operator(q, disk) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True)
    assert len(disk.asked) == ("is used by" in said)


async def test_a_hive_verifies_and_tells_of_a_model(queen: Maker) -> None:
    """The call reaches the host with the model's name, and its answer comes back."""
    q, disk = queen(fleet(COLD, hives=("a",))), Disk()
    async with operator(q, disk) as client:
        assert (await client.post("/api/v1/hives/a/models/org%2Fm%3Aq4/verify")).json()["intact"] is True
        assert (await client.get("/api/v1/hives/a/models/org%2Fm%3Aq4")).json()["name"] == "org/m:q4"
    assert disk.asked == ["POST /api/v1/models/org/m:q4/verify", "GET /api/v1/models/org/m:q4"]
