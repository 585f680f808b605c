"""A queen without a fleet takes another model of its machine while it runs."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.link import Link, Role
from rbee_runtime.queen import admin, laptop_routes
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.policy import row_for
from rbee_runtime.queen.records import Scope
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_link import listening

Maker = Callable[[FleetFile], Fixture]


@asynccontextmanager
async def person(q: Fixture, engines: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the admin API of a queen with its own hive."""
    app = admin.build(q.controller, HiveCalls(q.controller, q.client, signature="1-0123456789abcdef"), q.usage)
    laptop_routes.register(app, q.controller, q.directory / "fleet.yaml", engines)
    link = Link(Role.QUEEN, "laptop", token="t")
    async with listening(app, link) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


async def test_a_model_is_served_from_then_on(queen: Maker, tmp_path: Path) -> None:
    """It is placed at once, beside those that were there; naming it again changes nothing."""
    q = queen(fleet(model("first"), hives=("a",)))
    q.beat("a")
    order = {"name": "demo", "source": "fake:tokens=5"}
    async with person(q, tmp_path) as client:
        answers = [await client.post("/api/v1/models", json=order) for _ in range(2)]
    assert [(each.status_code, each.json()["added"]) for each in answers] == [(201, True), (201, False)]
    assert list(q.controller.fleet.names) == ["first", "demo"]
    assert {entry.spec.model for entry in q.controller.assignments.values()} == {"first", "demo"}


@pytest.mark.parametrize(
    ("name", "source", "status", "said"),
    [
        ("m", "fake:tokens=6", 409, "the model 'm' is another one already; choose a name: NAME=fake:tokens=6"),
        ("n", "file:/no/such.gguf", 400, "there is no file /no/such.gguf"),
        ("n", "ftp:x", 400, "is not of a known form"),
        ("../n", "fake:", 400, "is not allowed"),
        ("n", "hf:org/repo", 400, "there is no engine llama-cpp in"),
    ],
)
async def test_a_model_that_cannot_be_is_one_sentence(
    queen: Maker, tmp_path: Path, name: str, source: str, status: int, said: str
) -> None:
    """And the queen serves what it served."""
    q = queen(fleet(model(), hives=("a",)))
    async with person(q, tmp_path) as client:
        answer = await client.post("/api/v1/models", json={"name": name, "source": source})
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True)
    assert list(q.controller.fleet.names) == ["m"]


async def test_only_an_operators_key_adds_a_model(queen: Maker, tmp_path: Path) -> None:
    """As everything else that changes what is served; a fleet has no such route at all."""
    row = row_for("/api/v1/models", "POST")
    assert row is not None
    assert row.scope is Scope.ADMIN_WRITE
    q = queen(fleet(model(), hives=("a",)))
    app = admin.build(q.controller, HiveCalls(q.controller, q.client, signature="1-0123456789abcdef"), q.usage)
    async with (
        listening(app, Link(Role.QUEEN, "laptop", token="t")) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        assert (await client.post("/api/v1/models", json={"name": "n", "source": "fake:"})).status_code in {404, 405}
