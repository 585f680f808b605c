"""The queen as it is deployed: its program, two models on eight workers, a hundred keys, its log of requests.

Nothing but its settings, its program and its HTTP surface is used, as a fleet uses them.
"""

import asyncio
import contextlib
import hashlib
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml

from benchmarks.gateway import hive
from benchmarks.gateway.answers import MODELS
from benchmarks.gateway.load import BenchError, Target
from benchmarks.gateway.running import Bench, Running, pinned, started
from rbee_runtime.link import Link, Role

FLEET = "bench"
KEYS = 100
READY_SECONDS = 30.0
SLOTS = 512
"""Of a worker: more than two thousand streams on four of them, so that no request waits for a slot."""


@dataclass(frozen=True)
class Shape:
    """What a queen serves: her models, slots of a worker, how many keys there are, and more settings."""

    models: tuple[str, ...] = MODELS
    slots: int = SLOTS
    keys: int = KEYS
    more: Mapping[str, object] = field(default_factory=dict)


BENCHED = Shape()


@dataclass(frozen=True)
class Place:
    """Where a queen lives: its folder, its ports, and the fleet's certificates (None: a laptop's token).

    `more` are further settings of hers.
    """

    folder: Path
    port: int
    link_port: int
    link_dir: Path | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Return the client endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Path:
        """Return the file of settings."""
        return self.folder / "queen.yaml"


def settings(place: Place, name: str = FLEET) -> dict[str, object]:
    """Return the queen's settings; `name` is the fleet's."""
    return {
        **place.more,
        "fleet": name,
        "address": "127.0.0.1",
        "port": place.port,
        "link_port": place.link_port,
        "state_dir": str(place.folder / "state"),
        "run_dir": str(place.folder / "run"),
        "fleet_file": str(place.folder / "fleet.yaml"),
        "bootstrap_key_file": str(place.folder / "bootstrap-key"),
        **({"link_dir": str(place.link_dir)} if place.link_dir is not None else {}),
    }


def fleet(workers: int, shape: Shape = BENCHED) -> dict[str, object]:
    """Return the fleet file of one host and so many workers, as many of each model."""
    each = workers // len(shape.models)
    same = {"source": "fake:", "engine": "fake", "replicas_min": each, "replicas_max": each, "slots": shape.slots}
    models = [{"name": name, **same} for name in shape.models]
    return {"hives": [{"name": hive.NAME}], "models": models}


@contextlib.asynccontextmanager
async def serving(
    name: str, bench: Bench, workers: Sequence[int], link_dir: Path | None, shape: Shape = BENCHED
) -> AsyncIterator[Running]:
    """Run a queen before these workers for the block."""
    port, link_port = bench.ports.take(2)
    place = Place(bench.folder / name, port, link_port, link_dir, shape.more)
    admin = prepare(place, fleet(len(workers), shape))
    token = "" if link_dir is not None else (place.folder / "state" / "link-token").read_text()
    link = Link(Role.HIVE, FLEET, link_dir, token=token)
    command = (sys.executable, "-m", "rbee_runtime.queen.main", "--config", str(place.settings))
    headers = {"authorization": f"Bearer {admin}"}
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=place.url, headers=headers, trust_env=False, timeout=30)
        )

        async def ready() -> bool:
            return (await client.get("/ready")).status_code == 200

        log = place.folder / "log"
        process = await stack.enter_async_context(started(name, pinned(bench.cores.gateway, command), log, ready))
        link_url = f"{link.scheme}://127.0.0.1:{place.link_port}"
        await stack.enter_async_context(hive.reporting(link, link_url, workers, shape.slots))
        await _all_ready(client, len(workers))
        keys = tuple([await _new_key(client, number) for number in range(shape.keys)])
        yield Running(Target(name, place.port, keys), tuple(workers), process, log, bench.cores.gateway)


def prepare(place: Place, declared: dict[str, object], *, name: str = FLEET) -> str:
    """Write all that a deploy writes and return the operator's key; `name` is the fleet's, `declared` its file."""
    (place.folder / "state").mkdir(parents=True)
    key_id = "operator"
    key = f"rbee_{key_id}_{secrets.token_hex(32)}"
    (place.folder / "bootstrap-key").write_text(f"{key_id}:{hashlib.sha256(key.encode()).hexdigest()}\n")
    (place.folder / "state" / "link-token").write_text(secrets.token_urlsafe(32))
    place.settings.write_text(yaml.safe_dump(settings(place, name)))
    (place.folder / "fleet.yaml").write_text(yaml.safe_dump(declared))
    return key


async def _all_ready(client: httpx.AsyncClient, workers: int) -> None:
    states: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_SECONDS):
            while states != ["ready"] * workers:
                await asyncio.sleep(0.1)
                shown = (await client.get("/api/v1/workers")).raise_for_status().json()
                states = [worker["state"] for worker in shown]
            return
    raise BenchError(f"the queen's workers are {', '.join(map(str, states)) or 'not there'} instead of {workers} ready")


async def _new_key(client: httpx.AsyncClient, number: int) -> str:
    answer = await client.post("/api/v1/keys", json={"name": f"bench-{number}"})
    if answer.status_code != 201:
        raise BenchError(f"the queen made no key: {answer.status_code} {answer.text[:200]}")
    return str(answer.json()["key"])
