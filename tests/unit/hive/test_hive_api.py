"""The hive's API: who may call it, what it refuses, what it tells."""

import asyncio
from functools import partial
from pathlib import Path

import httpx
import pytest

from rbee_runtime.config import HiveConfig
from rbee_runtime.hive import attached
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import encode
from tests.faults.rows import row
from tests.unit.certificates import issue_fleet
from tests.unit.hive.conftest import FLEET, Queen, Start, desired, fake
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

ROUTES = ["/api/v1/info", "/api/v1/devices", "/api/v1/workers", "/api/v1/models", "/api/v1/workers/w-1/logs"]


@pytest.mark.parametrize("path", ROUTES)
async def test_facts_are_for_the_queen(start: Start, path: str) -> None:
    """Without the token every route but health and readiness is refused."""
    hive, _ = await start()
    async with httpx.AsyncClient(trust_env=False) as stranger:
        answer = await stranger.get(f"http://127.0.0.1:{hive.config.port}{path}")
    assert answer.status_code == 403


@pytest.mark.parametrize(("path", "field"), [("/health", "status"), ("/ready", "ready")])
async def test_health_and_readiness_are_for_anybody(start: Start, path: str, field: str) -> None:
    """Both answer 200 without credentials once the hive has looked at its workers."""
    hive, _ = await start()
    async with httpx.AsyncClient(trust_env=False) as stranger:
        answer = await stranger.get(f"http://127.0.0.1:{hive.config.port}{path}")
    assert (answer.status_code, field in answer.json()) == (200, True)


async def test_a_stale_document_is_a_conflict_and_changes_nothing(start: Start) -> None:
    """Lower epoch, lower revision and another fleet get 409 in the usual error form."""
    _, queen = await start()
    await queen.put(desired(5, epoch=2))
    for stale in (desired(9, epoch=1), desired(4, epoch=2)):
        answer = await queen.put(stale)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stale_desired")
    info = (await queen.get("/api/v1/info")).json()
    assert (info["epoch"], info["revision"]) == (2, 5)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/api/v1/desired", b"{", 400),
        ("PUT", "/api/v1/desired", b" " * (4 * 1024 * 1024 + 1), 413),
        ("POST", "/api/v1/desired", b"{}", 405),
        ("GET", "/api/v1/nothing", b"", 404),
        ("GET", "/api/v1/workers/..%2Fx/logs", b"", 404),
        ("GET", "/api/v1/workers/UP/logs", b"", 400),
        ("GET", "/api/v1/workers/w-1/logs", b"", 404),
        ("GET", "/api/v1/workers/w-1/logs?lines=0", b"", 400),
        ("GET", "/api/v1/workers/w-1/logs?lines=9999999", b"", 400),
    ],
)
async def test_bad_requests_get_one_sentence(start: Start, method: str, path: str, body: bytes, status: int) -> None:
    """Every refusal has the error form with a message."""
    hive, queen = await start()
    answer = await queen.client.request(method, f"http://127.0.0.1:{hive.config.port}{path}", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_m8_many_equal_documents_over_the_api_start_one_worker(start: Start) -> None:
    """Fifty equal requests at once get equal answers and start one process."""
    hive, queen = await start()
    url, body = f"http://127.0.0.1:{hive.config.port}/api/v1/desired", encode(desired(1, fake("w-1")))
    asked = [queen.client.put(url, content=body) for _ in range(row("M8").figure("requests"))]
    answers = await asyncio.gather(*asked)
    await until(lambda: queen.in_state("w-1", "ready"))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    held = await queen.client.get(url.replace("desired", "events"), headers={"accept": "application/json"})
    kinds = [(event["kind"], event["data"].get("state")) for event in held.json()]
    assert kinds.count(("worker_state", "starting")) == 1
    assert (await queen.get("/api/v1/workers/w-1")).json()["report"]["restarts"] == 0


async def test_logs_are_the_workers_own(start: Start) -> None:
    """The log route returns what the worker wrote, at most as many lines as asked for."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1", fail="bad_model")))
    await until(lambda: queen.in_state("w-1", "exited"))
    answer = await queen.get("/api/v1/workers/w-1/logs?lines=1")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith("rbee-worker:")


async def test_logs_of_all_workers_name_each(start: Start) -> None:
    """Without a worker in the path every worker's last lines come, its id before each."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1", fail="bad_model"), fake("w-2", fail="bad_model")))
    for worker in ("w-1", "w-2"):
        await until(partial(queen.in_state, worker, "exited"))
    found = (await queen.get("/api/v1/logs?lines=1")).text.splitlines()
    assert [line.partition("rbee-worker:")[0] for line in found] == ["w-1: ", "w-2: "]


async def test_all_logs_are_followed_in_one_stream(start: Start) -> None:
    """A follower hears workers that write later, and the answer ends when it goes."""
    hive, queen = await start()
    url = f"http://127.0.0.1:{hive.config.port}/api/v1/logs?follow=1"
    async with queen.client.stream("GET", url) as answer, asyncio.timeout(20):
        await queen.put(desired(1, fake("w-1", fail="bad_model"), fake("w-2", fail="bad_model")))
        heard: set[str] = set()
        async for line in answer.aiter_lines():
            heard.add(line.partition(":")[0])
            if heard == {"w-1", "w-2"}:
                break
    assert heard == {"w-1", "w-2"}


async def test_devices_are_there_from_the_first_answer(start: Start) -> None:
    """The processor is reported at once."""
    _, queen = await start()
    (device,) = (await queen.get("/api/v1/devices")).json()
    assert (device["id"], device["total"] > 0) == ("cpu", True)


async def test_with_certificates_roles_decide(settings: HiveConfig, tmp_path: Path) -> None:
    """Over mutual TLS the queen may command, worker and hive may not, and the worker runs with its own certificate."""
    folder = issue_fleet(tmp_path / "tls", FLEET)
    settings = settings.model_copy(update={"link_dir": folder, "address": "127.0.0.1"})
    hive = await attached.start(settings, Link(Role.HIVE, FLEET, folder))
    base = f"https://127.0.0.1:{hive.config.port}"
    try:
        for role in (Role.WORKER, Role.HIVE):
            async with Link(role, FLEET, folder).client(timeout=httpx.Timeout(5), peer=Role.HIVE) as client:
                assert (await client.get(f"{base}/api/v1/info")).status_code == 403
        async with Link(Role.QUEEN, FLEET, folder).client(timeout=httpx.Timeout(5), peer=Role.HIVE) as client:
            queen = Queen(base, client)
            await queen.put(desired(1, fake("w-1")))
            report = await until(lambda: queen.in_state("w-1", "ready"))
        async with Link(Role.QUEEN, FLEET, folder).client(timeout=httpx.Timeout(5), peer=Role.WORKER) as client:
            assert (await client.get(f"https://127.0.0.1:{report['port']}/v1/models")).status_code == 200
    finally:
        await hive.stop(stop_workers=True)
