"""Models on demand as the controller has them, and what people are told of them through the admin API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen import admin
from rbee_runtime.queen.ejection import FAILURES
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.loads import MEMO_SECONDS, Phase
from rbee_runtime.queen.usage import Usage
from rbee_runtime.states import Observed
from tests.unit.queen.simulator import Host, Nature, World, calm, placed, world
from tests.unit.queen.states import GIB, model

NATURES = {
    "m": Nature(size=GIB, need=5 * GIB, load=5),
    "n": Nature(size=GIB, need=5 * GIB, load=5),
    "kept": Nature(size=GIB, need=2 * GIB, load=2),
    "bad": Nature(broken=True),
    "huge": Nature(size=90 * GIB, need=110 * GIB),
}


def models(**fields: Any) -> list[FleetModel]:
    """Return models on demand and one that is kept up; with their real sizes, and what a test wants of model m."""
    declared = [
        model(
            name,
            files=[{"name": "f", "sha256": "0" * 64, "size": 4 * GIB if nature.need == 5 * GIB else nature.size}],
            **{"replicas_min": int(name == "kept"), "slots": 2, **(fields if name == "m" else {})},
        )
        for name, nature in NATURES.items()
    ]
    return [*declared, model("each", each_host=True)]


@asynccontextmanager
async def two_hosts(**fields: Any) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """Give hosts with room for one model beside the kept one each, and a client of the admin API."""
    natures = {**NATURES, "each": Nature(size=1, need=1)}
    with world(models(**fields), [Host(name, {"g": 9 * GIB}, natures) for name in "ab"]) as it:
        await it.run(12)
        nobody = httpx.MockTransport(lambda _: httpx.Response(500))
        calls = HiveCalls(it.controller, httpx.AsyncClient(transport=nobody), signature="1-0123456789abcdef")
        app = admin.build(it.controller, calls, Usage(it.store, it.keys, it.directory, 1))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://queen") as client:
            yield it, client


async def explained(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/api/v1/models/{name}/explain")).json()
    return found


async def states(client: httpx.AsyncClient) -> dict[str, str]:
    return {row["name"]: row["state"] for row in (await client.get("/api/v1/models")).json()}


async def refusal(client: httpx.AsyncClient, path: str, **body: Any) -> tuple[int, str]:
    answer = await client.post(path, json=body)
    return answer.status_code, answer.json()["error"]["message"]


async def test_a_model_is_loaded_and_unloaded_by_hand() -> None:
    """Nobody has to ask it something first; unloading releases its worker, and the next request loads it again."""
    async with two_hosts() as (it, client):
        cold = dict.fromkeys(("m", "n", "bad", "huge"), "cold")
        assert await states(client) == {**cold, "kept": "ready", "each": "ready"}
        begun = (await client.post("/api/v1/models/m/load")).json()
        assert (await states(client))["m"] == "loading"
        assert (begun["ready"], begun["load"]["cause"]) == (0, "operator")
        assert [load["model"] for load in (await client.get("/api/v1/loads")).json()] == ["m"]
        await it.run(10)
        assert (await client.post("/api/v1/models/m/load")).json() == {
            "model": "m",
            "ready": 1,
            "workers": 1,
            "load": None,
        }
        assert (await client.post("/api/v1/models/m/unload")).json()["workers"] == 0
        asked = it.ask("m")
        await calm(it)
        assert asked.outcome.startswith("m-")


async def test_an_unload_waits_for_requests_and_refuses_those_in_line() -> None:
    """What runs is finished, nothing new begins, and who waits hears that somebody unloaded it."""
    async with two_hosts() as (it, client):
        asked = [it.ask("m", 30.0) for _ in range(3)]
        await it.run(10)
        assert (await client.post("/api/v1/models/m/unload")).json()["workers"] == 1
        await it.run(40)
        assert [each.outcome[:2] for each in asked] == ["m-", "m-", "50"]
        assert placed(it, "m") == []
        waits = it.ask("n")
        await asyncio.sleep(0)
        await client.post("/api/v1/models/n/unload")
        await it.step()
        assert "an operator unloaded it" in waits.outcome


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/v1/models/kept/unload", 409, "the inventory wants workers of kept (at least 1); write replicas=(0, …)"),
        ("/api/v1/models/each/unload", 409, "the inventory wants workers of each (one on each host)"),
        ("/api/v1/models/none/load", 404, "the model 'none' is not in the inventory"),
        ("/api/v1/workers/none/move", 404, "there is no worker 'none'"),
    ],
)
async def test_what_cannot_be_done_is_refused(path: str, status: int, said: str) -> None:
    """In one sentence that says what to do instead."""
    async with two_hosts() as (_, client):
        found = await refusal(client, path)
        assert (found[0], found[1][: len(said)]) == (status, said)


async def test_a_worker_moves_when_its_replacement_serves() -> None:
    """It serves until then; nothing in flight is cut off, and one worker is left, on the other host."""
    async with two_hosts() as (it, client):
        running = it.ask("m", 40.0)
        await it.run(10)
        (worker,) = placed(it, "m")
        other = "b" if worker.hive == "a" else "a"
        answer = await client.post(f"/api/v1/workers/{worker.id}/move", json={"hive": other})
        assert answer.json() == {"worker": worker.id, "model": "m", "hive": worker.hive, "to": other}
        assert "moves to" in (await explained(client, "m"))["workers"][0]["why"]
        await it.run(60)
        assert [entry.hive for entry in placed(it, "m")] == [other]
        assert running.outcome == worker.id


async def test_a_worker_that_gets_no_requests_is_explained() -> None:
    """Why a model is slower than its workers are many is told where one looks, and no longer than it is so."""
    async with two_hosts() as (it, client):
        bad = placed(it, "each")[0].id
        for _ in range(FAILURES):
            it.controller.roster.settle(bad, answered=False)
        told = await explained(client, "each")
        why = {worker["id"]: worker["why"] for worker in told["workers"]}
        assert why.pop(bad).startswith(
            "ejected as its requests failed; gets none for 10 s, then one to try it; stays: "
        )
        assert not any("ejected" in other for other in why.values())
        assert told["summary"].startswith("each serves with 2 workers, 1 of them ejected; ")
        await it.run(11)
        told = await explained(client, "each")
        assert "the next request tries it" in next(each["why"] for each in told["workers"] if each["id"] == bad)


async def test_a_move_without_room_is_refused_with_the_numbers() -> None:
    """The dry run says what is missing on the host that was asked for."""
    async with two_hosts() as (it, client):
        for name in "mn":
            it.ask(name, 500.0)
        await it.run(12)
        (worker,) = placed(it, "m")
        other = placed(it, "n")[0].hive
        status, said = await refusal(client, f"/api/v1/workers/{worker.id}/move", hive=other)
        assert (status, f"{other}: needs 5.0 GiB" in said) == (409, True)
        same = await refusal(client, f"/api/v1/workers/{worker.id}/move", hive=worker.hive)
        assert same == (409, f"worker {worker.id} is on {worker.hive} already")


async def test_an_explanation_has_the_numbers_of_every_device() -> None:
    """Why nothing fits, what one more worker would find, who would go for it: as the next plan would decide."""
    async with two_hosts() as (it, client):
        huge = await explained(client, "huge")
        assert huge["summary"] == "huge is not loaded, and is when somebody asks for it; one more worker fits nowhere"
        assert huge["places"][0]["reason"].startswith("needs 108.2 GiB, its largest card gives 8.6 GiB when nothing")
        for name in "mn":
            it.ask(name)
        await calm(it)
        await it.run(40)
        idle = await explained(client, "m")
        assert idle["workers"][0]["why"] == "may make room for another model"
        it.controller.fleet.current = it.controller.fleet.current.model_copy(
            update={"models": (*it.declared.models, replace_name(it.declared.models[0], "third"))}
        )
        third = await explained(client, "third")
        chosen = next(place for place in third["places"] if place["chosen"])
        assert chosen["evicts"] == [
            entry.id for name in "mn" for entry in placed(it, name) if entry.hive == chosen["hive"]
        ]
        assert chosen["ledger"][0]["reserved"] + chosen["ledger"][0]["free"] <= 9 * GIB


def replace_name(declared: FleetModel, name: str) -> FleetModel:
    return declared.model_copy(update={"name": name})


async def test_what_fits_nowhere_is_refused_at_once() -> None:
    """With the numbers, and told again without another try until the memo is over."""
    async with two_hosts() as (it, client):
        first = it.ask("huge")
        await it.step()
        assert first.outcome.startswith(
            "503 model_not_ready: huge: it fits nowhere (a: needs 108.2 GiB, its largest card"
        )
        assert (await client.get("/api/v1/loads")).json()[0]["phase"] == Phase.FAILED
        assert "not tried again for" in (await explained(client, "huge"))["summary"]
        with pytest.raises(RequestError) as refused:
            it.lines.at_once(Ask(it.keys.active()[0].id, "huge"))
        assert refused.value.retry_after == MEMO_SECONDS
        await it.run(MEMO_SECONDS + 1)
        assert (await client.get("/api/v1/loads")).json() == []


async def test_a_host_that_comes_back_ends_the_tale_that_a_model_fits_nowhere() -> None:
    """Its next request is not refused for hosts that are there again; one that does not start stays refused."""
    async with two_hosts(hosts=("b",)) as (it, _):
        it.hosts["b"].connected = False
        await it.run(75, step=5.0)
        first, bad = it.ask("m"), it.ask("bad")
        await it.run(10)
        assert first.outcome.startswith("503 model_not_ready: m: it fits nowhere (")
        assert "b: lost" in first.outcome
        assert bad.outcome.startswith("503 model_not_ready: bad: its workers fail to start")
        it.hosts["b"].connected = True
        await it.run(2)
        again, still = it.ask("m"), it.ask("bad")
        await it.step()
        assert still.outcome == bad.outcome
        await calm(it)
        assert again.outcome.startswith("m-")


async def test_a_model_that_does_not_start_is_told_so_and_not_tried_at_each_request() -> None:
    """Its failure is remembered, twice as long the second time."""
    async with two_hosts() as (it, _):
        for _ in range(60):
            it.ask("bad")
            await it.step()
        await calm(it)
        assert {each.outcome.partition(":")[0] for each in it.requests} == {"503 model_not_ready"}
        assert it.loads["bad"] <= 3


async def test_a_busy_model_gets_more_workers_and_loses_them_again() -> None:
    """Up to its maximum while requests wait, back to none after its idle time."""
    async with two_hosts(replicas_max=2, idle_ttl=30.0) as (it, _):
        for _ in range(12):
            it.ask("m", 20.0)
        await it.run(30)
        assert len(placed(it, "m")) == 2
        await calm(it)
        await it.run(100)
        assert placed(it, "m") == []
        assert all(each.outcome.startswith("m-") for each in it.requests)


async def test_a_lost_host_has_its_model_on_demand_loaded_elsewhere() -> None:
    """Whoever asks waits for the replacement."""
    async with two_hosts() as (it, _):
        it.ask("m")
        await it.run(10)
        it.hosts[placed(it, "m")[0].hive].crash()
        await it.run(70)
        asked = it.ask("m")
        await it.run(15)
        assert asked.outcome.startswith("m-")


async def test_a_lost_host_has_its_model_loaded_elsewhere_by_hand() -> None:
    """A worker of which nothing is heard any more does not pass for one that serves."""
    async with two_hosts() as (it, client):
        it.ask("m")
        await it.run(10)
        lost = placed(it, "m")[0].hive
        other = "b" if lost == "a" else "a"
        it.controller.set_drained(other, drained=True)
        it.hosts[lost].crash()
        await it.run(70)
        it.controller.set_drained(other, drained=False)
        begun = (await client.post("/api/v1/models/m/load")).json()
        assert (begun["ready"], begun["load"]["cause"]) == (0, "operator")
        await it.run(15)
        assert [entry.observed for entry in placed(it, "m") if entry.hive == other] == [Observed.READY]
        assert (await client.post("/api/v1/models/m/load")).json()["ready"] == 1


@pytest.mark.parametrize("change", [{"source": "fake:tokens=2", "files": ()}, {"replicas_min": 1}])
async def test_a_failure_is_forgotten_when_its_model_is_declared_anew(change: dict[str, Any]) -> None:
    """It says nothing of other files, nor of one that the inventory now keeps up."""
    async with two_hosts() as (it, client):
        it.ask("huge")
        await it.step()
        assert [load["model"] for load in (await client.get("/api/v1/loads")).json()] == ["huge"]
        models = tuple(each.model_copy(update=change) if each.name == "huge" else each for each in it.declared.models)
        it.controller.fleet.current = it.controller.fleet.current.model_copy(update={"models": models})
        await it.step()
        assert (await client.get("/api/v1/loads")).json() == []
        assert (await explained(client, "huge"))["load"] is None


async def test_a_forgotten_load_is_dropped_with_its_model() -> None:
    """A model that leaves the inventory while it loads has no load any more."""
    async with two_hosts() as (it, client):
        it.ask("m")
        await it.run(1)
        left = tuple(each for each in it.declared.models if each.name != "m")
        it.controller.fleet.current = it.controller.fleet.current.model_copy(update={"models": left})
        it.controller.reconcile()
        assert (await client.get("/api/v1/loads")).json() == []
        it.requests[0].leave()
