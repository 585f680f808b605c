"""Models that nobody has loaded: real queen, hive and workers, and as many clients as come."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.unit.queen.hosts import Host, hosts, release
from tests.unit.queen.units import Unit, unit, wait_until

pytestmark = pytest.mark.slow

COLD = {"name": "m", "source": "fake:tokens=3,tokens_per_s=0,load_s=1", "engine": "fake", "replicas_min": 0}
FLEET: dict[str, object] = {
    "hives": [{"name": "a"}],
    "models": [
        {**COLD, "slots": 64},
        {**COLD, "name": "short", "idle_ttl": 2.0},
        {**COLD, "name": "slow"},
        {**COLD, "name": "by/hand"},
    ],
}
WITHIN = 60.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Unit, Host]]:
    """Give a queen and the hive of one host, which has nothing loaded."""
    folder = tmp_path_factory.mktemp("scale")
    with unit(folder / "unit", FLEET, drain_seconds=5) as u:
        u.start()
        with hosts(u, "a") as (host,):
            host.start(release(folder, "0.1.0-aaaaaaaa"))
            wait_until(lambda: [row["state"] for row in u.get("/api/v1/hives").json()] == ["live"])
            yield u, host


def models(u: Unit) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in u.get("/api/v1/models").json()}


def body(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


async def ask(u: Unit, model: str, count: int) -> Counter[int]:
    """Return how many answers of each status so many requests at once get."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(headers=u.headers, timeout=WITHIN, limits=limits) as client:
        asked = [client.post(f"{u.url}/v1/chat/completions", json=body(model)) for _ in range(count)]
        return Counter(answer.status_code for answer in await asyncio.gather(*asked))


def begun(u: Unit, model: str) -> int:
    """Return how many loads of a model its queens began."""
    return u.log.read_text().count(f'event="load begins" model={model} ')


async def test_500_requests_for_a_cold_model_are_one_load_and_500_answers(fleet: tuple[Unit, Host]) -> None:
    """Who comes first has it loaded, the others wait for the same worker, and everybody is answered."""
    u, host = fleet
    assert models(u)["m"]["workers"] == 0
    assert await ask(u, "m", 500) == {200: 500}
    assert models(u)["m"]["workers"] == 1
    assert len([pid for worker, pid in host.pids().items() if worker.startswith("m-")]) == 1
    assert begun(u, "m") == 1


async def test_an_idle_model_goes_and_comes_back(fleet: tuple[Unit, Host]) -> None:
    """After its idle time its process is gone; the next request has it loaded again."""
    u, host = fleet
    assert await ask(u, "short", 1) == {200: 1}
    wait_until(lambda: models(u)["short"]["workers"] == 0)
    wait_until(lambda: not [worker for worker in host.pids() if worker.startswith("short-")])
    assert await ask(u, "short", 1) == {200: 1}


def test_a_load_outlives_its_client_and_its_queen(fleet: tuple[Unit, Host]) -> None:
    """Whoever began it is gone, the queen is another one, and the model is loaded once."""
    u, host = fleet
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{u.url}/v1/chat/completions", json=body("slow"), headers=u.headers, timeout=0.3)
    u.mains[-1].signal(signal.SIGTERM)
    u.start()
    wait_until(lambda: models(u)["slow"]["ready"] == 1)
    assert len([worker for worker in host.pids() if worker.startswith("slow-")]) == 1
    assert begun(u, "slow") == 1


def test_a_person_loads_explains_and_unloads(fleet: tuple[Unit, Host]) -> None:
    """Through the admin API of the program, by a name with a slash."""
    u, host = fleet
    path = f"{u.url}/api/v1/models/by/hand"
    assert httpx.post(f"{path}/load", headers=u.headers).json()["load"]["cause"] == "operator"
    wait_until(lambda: httpx.get(f"{path}/explain", headers=u.headers).json()["ready"] == 1)
    assert httpx.post(f"{path}/unload", headers=u.headers).json()["workers"] == 0
    wait_until(lambda: not [worker for worker in host.pids() if worker.startswith("by-hand-")])
