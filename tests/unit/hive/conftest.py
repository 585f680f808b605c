"""A real hive on loopback: in this process, with the process launcher and real workers of the fake engine."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee_runtime.config import HiveConfig
from rbee_runtime.hive import attached
from rbee_runtime.hive.attached import AttachedHive
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Desired, ModelSpec, WorkerSpec, encode
from tests.ports import free_ports
from tests.unit.hive.fetch_case import Case

TOKEN = "test-token"
FLEET = "t"


@pytest.fixture
def settings(tmp_path: Path) -> HiveConfig:
    return HiveConfig(
        fleet=FLEET,
        name="h1",
        port=0,
        queen_url="http://127.0.0.1:9",
        state_dir=tmp_path / "state",
        run_dir=tmp_path / "run",
        models_dir=tmp_path / "models",
        engines_dir=tmp_path / "engines",
        launcher="process",
        worker_ports=free_ports(8),
        heartbeat_seconds=0.5,
    )


def desired(revision: int, *workers: WorkerSpec, epoch: int = 1, sources: dict[str, str] | None = None) -> Desired:
    names = {worker.model for worker in workers}
    models = tuple(ModelSpec(name=name, source=(sources or {}).get(name, "fake:")) for name in sorted(names))
    return Desired(fleet=FLEET, epoch=epoch, revision=revision, workers=workers, models=models)


def fake(worker: str, **options: Any) -> WorkerSpec:
    return WorkerSpec(id=worker, model="m", engine="fake", options=options)


class Queen:
    """What a queen does to one hive."""

    def __init__(self, base: str, client: httpx.AsyncClient) -> None:
        self._base = base
        self.client = client

    async def put(self, document: Desired) -> httpx.Response:
        return await self.client.put(f"{self._base}/api/v1/desired", content=encode(document))

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(f"{self._base}{path}")

    async def worker(self, worker: str) -> dict[str, Any]:
        found = (await self.get("/api/v1/workers")).json()
        return next((each for each in found if each["id"] == worker), {})

    async def in_state(self, worker: str, *states: str) -> dict[str, Any]:
        report = await self.worker(worker)
        return report if report.get("state") in states else {}

    async def absent(self, worker: str) -> bool:
        return await self.worker(worker) == {}


Start = Callable[..., Awaitable[tuple[AttachedHive, Queen]]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a hive in this process look and ask more often, so that tests wait for processes and not for periods."""
    monkeypatch.setattr("rbee_runtime.hive.supervisor.EAGER_SECONDS", 0.1)
    monkeypatch.setattr("rbee_runtime.hive.probes.EAGER_SECONDS", 0.05)
    monkeypatch.setattr("rbee_runtime.hive.probes.PROBE_SECONDS", 0.5)
    monkeypatch.setattr("rbee_runtime.hive.probes.DEADLINE_SECONDS", 0.5)
    monkeypatch.setattr("rbee_runtime.hive.launchers.process.ProcessLauncher.poll_seconds", 0.2)


@pytest.fixture
async def start(settings: HiveConfig, quick: None) -> AsyncIterator[Start]:
    """Return a function that starts a hive on the settings; whatever runs at the end is stopped with its workers."""
    running: list[AttachedHive] = []
    link = Link(Role.HIVE, FLEET, token=TOKEN)
    queen_link = Link(Role.QUEEN, FLEET, token=TOKEN)
    clients: list[httpx.AsyncClient] = []

    async def make(**changes: Any) -> tuple[AttachedHive, Queen]:
        hive = await attached.start(settings.model_copy(update=changes), link)
        running.append(hive)
        client = queen_link.client(timeout=httpx.Timeout(30))
        clients.append(client)
        return hive, Queen(f"http://127.0.0.1:{hive.config.port}", client)

    yield make
    for client in clients:
        await client.aclose()
    for hive in running:
        if not hive.stopped:
            await hive.stop(stop_workers=True)


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    made = Case(tmp_path / "models")
    yield made
    await made.fetching.close()
