"""Who may call a worker, and what it says about itself."""

import asyncio
from pathlib import Path

import httpx
import pytest

from rbee_runtime.errors import NotTakenError
from rbee_runtime.link import Link, Role
from rbee_runtime.worker.lifecycle import Phase, Worker
from tests.unit.certificates import issue_fleet
from tests.unit.worker.serving import MODEL, served

INNER = ("/v1/models", "/v1/chat/completions")
OUTER = ("/health", "/ready", "/info", "/metrics")


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two fleets, `ours` and `theirs`, below one folder."""
    root = tmp_path_factory.mktemp("fleets")
    for name in ("ours", "theirs"):
        issue_fleet(root / name, name)
    return root


async def statuses(link: Link, port: int, paths: tuple[str, ...]) -> set[int]:
    async with link.client(timeout=httpx.Timeout(5), peer=Role.WORKER) as client:
        return {(await client.get(f"https://127.0.0.1:{port}{path}")).status_code for path in paths}


async def test_the_queens_certificate_is_let_in_everywhere(fleets: Path) -> None:
    """A queen of the fleet reaches every route (405: the chat route takes POST only)."""
    async with served(link=Link(Role.WORKER, "ours", fleets / "ours")) as worker:
        queen = Link(Role.QUEEN, "ours", fleets / "ours")
        assert await statuses(queen, worker.port, (*OUTER, "/v1/models")) == {200}
        assert await statuses(queen, worker.port, ("/v1/chat/completions",)) == {405}


async def test_the_hives_certificate_sees_health_and_no_model(fleets: Path) -> None:
    """A hive may watch a worker but never ask it."""
    async with served(link=Link(Role.WORKER, "ours", fleets / "ours")) as worker:
        hive = Link(Role.HIVE, "ours", fleets / "ours")
        assert await statuses(hive, worker.port, OUTER) == {200}
        assert await statuses(hive, worker.port, INNER) == {403}


async def test_a_neighbouring_worker_is_refused(fleets: Path) -> None:
    """A worker that was taken over cannot use its certificate on another worker."""
    async with served(link=Link(Role.WORKER, "ours", fleets / "ours")) as worker:
        assert await statuses(Link(Role.WORKER, "ours", fleets / "ours"), worker.port, INNER + OUTER) == {403}


async def test_strangers_do_not_get_through_the_handshake(fleets: Path) -> None:
    """Without a certificate, or with one of another fleet, there is no HTTP at all."""
    async with served(link=Link(Role.WORKER, "ours", fleets / "ours")) as worker:
        url = f"https://127.0.0.1:{worker.port}/health"
        with pytest.raises(httpx.TransportError):
            await statuses(Link(Role.QUEEN, "theirs", fleets / "theirs"), worker.port, ("/health",))
        async with httpx.AsyncClient(verify=False, trust_env=False) as nobody:
            with pytest.raises(httpx.TransportError):
                await nobody.get(url)
            with pytest.raises(httpx.TransportError):
                await nobody.get(url.replace("https", "http"))


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_laptop_worker_wants_its_token(token: str) -> None:
    """On loopback the token is the key to every route."""
    async with served() as worker:
        for path in INNER + OUTER:
            answer = await worker.client.get(path, headers={"x-rbee-token": token})
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")


async def test_info_says_what_runs() -> None:
    """Identity, engine and load of the worker come in one answer."""
    async with served("slots=3", context=128) as worker:
        info = (await worker.client.get("/info")).json()
    assert info["spec"] == worker.worker.spec.digest()
    assert (info["id"], info["model"], info["engine"]) == ("fake-000001", MODEL, "fake")
    assert (info["context"], info["slots"], info["in_flight"], info["state"]) == (128, 3, 0, "ready")
    assert info.keys() >= {"pid", "started", "version"}


@pytest.mark.parametrize(("phase", "code"), [(Phase.LOADING, "model_loading"), (Phase.DRAINING, "worker_draining")])
async def test_only_a_ready_worker_takes_requests(phase: Phase, code: str) -> None:
    """While it loads or drains it is healthy, not ready, and refuses chats with 503 and Retry-After."""
    async with served() as worker:
        worker.worker.phase = phase
        refusal = await worker.ask()
        ready = await worker.client.get("/ready")
        health = await worker.client.get("/health")
    assert (refusal.status_code, refusal.headers["retry-after"], refusal.json()["error"]["code"]) == (503, "1", code)
    assert refusal.headers[NotTakenError.HEADER] == "1"
    assert (ready.status_code, ready.json()["state"], health.status_code) == (503, phase, 200)


async def test_metrics_count_tokens() -> None:
    """Prompt and answer tokens add up over requests."""
    async with served("tokens_per_s=0") as worker:
        for _ in range(2):
            await worker.ask(max_tokens=3)
        lines = (await worker.client.get("/metrics")).text.splitlines()
    assert "rbee_worker_completion_tokens_total 6.0" in lines
    assert "rbee_worker_prompt_tokens_total 10.0" in lines
    assert 'rbee_worker_requests_total{outcome="ok"} 2.0' in lines


async def test_metrics_tell_how_long_clients_waited() -> None:
    """The first piece, the time between two, and whole requests are counted, each in its bucket."""
    async with served("tokens_per_s=100") as worker:
        await worker.ask(max_tokens=3)
        lines = (await worker.client.get("/metrics")).text.splitlines()
    assert "rbee_worker_time_to_first_token_seconds_count 1.0" in lines
    assert "rbee_worker_inter_token_seconds_count 3.0" in lines
    assert "rbee_worker_request_seconds_count 1.0" in lines
    assert 'rbee_worker_time_to_first_token_seconds_bucket{le="0.005"} 0.0' in lines


async def test_metrics_tell_how_busy_the_engine_is() -> None:
    """Slots that are taken show while an answer runs."""
    async with served("fail=hang_after_1", slots=2) as worker:
        ask = asyncio.create_task(worker.ask(stream=True))
        await worker.until(in_flight=1)
        await asyncio.sleep(0.05)
        lines = (await worker.client.get("/metrics")).text.splitlines()
        ask.cancel()
    assert {"rbee_worker_slots 2.0", "rbee_worker_slots_busy 1.0", "rbee_worker_queue 0.0"} <= {*lines}


async def test_the_model_list_has_openais_shape() -> None:
    """A worker lists its one model."""
    async with served() as worker:
        listed = (await worker.client.get("/v1/models")).json()
        unknown = await worker.client.get("/v1/moderations")
    assert (listed["object"], [entry["id"] for entry in listed["data"]]) == ("list", [MODEL])
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_route")


def test_a_phase_never_goes_back() -> None:
    """A worker that drains stays so, whatever finishes late."""
    worker = Worker.__new__(Worker)
    worker.phase = Phase.LOADING
    worker.enter(Phase.DRAINING)
    worker.enter(Phase.READY)
    assert worker.phase is Phase.DRAINING
