"""Models that nobody has loaded: real queen, hive and workers, and as many clients as come."""

import asyncio
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
    "models": [{**COLD, "slots": 64}, {**COLD, "name": "short", "idle_ttl": 2.0}, {**COLD, "name": "slow"}],
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


async def ask(u: Unit, model: str, count: int) -> Counter[int]:
    """Return how many answers of each status so many requests at once get."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(headers=u.headers, timeout=WITHIN, limits=limits) as client:
        asked = [client.post(f"{u.url}/v1/chat/completions", json=body) for _ in range(count)]
        return Counter(answer.status_code for answer in await asyncio.gather(*asked))


async def test_500_requests_for_a_cold_model_are_one_load_and_500_answers(fleet: tuple[Unit, Host]) -> None:
    """Who comes first has it loaded, the others wait for the same worker, and everybody is answered."""
    u, host = fleet
    assert models(u)["m"]["workers"] == 0
    assert await ask(u, "m", 500) == {200: 500}
    assert models(u)["m"]["workers"] == 1
    assert len([pid for worker, pid in host.pids().items() if worker.startswith("m-")]) == 1
    assert u.log.read_text().count("load begins") == 1
