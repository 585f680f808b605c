"""The real launchers, with their real clients, through the real guard, to an engine that writes down what it hears."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.config import ContainerSettings
from rbee_runtime.errors import LauncherError
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.hive.launchers import Phase
from rbee_runtime.hive.launchers.docker import Docker
from rbee_runtime.hive.launchers.engine import ContainerLauncher, Engine, Surroundings
from rbee_runtime.hive.launchers.podman import Podman
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from tests.unit.guard.asking import ask, create_target
from tests.unit.guard.bodies import GPU, OWNER, create_body, model
from tests.unit.guard.conftest import guarding
from tests.unit.guard.places import ACCOUNT, CALLERS, FLEET, HIVE, IMAGE, Places, hand_over
from tests.unit.guard.recording_engine import DOCKER_INFO, Asked, RecordingEngine
from tests.unit.hive.waiting import until

DIGEST = "0123456789abcdef"
ENGINES: dict[EngineKind, Callable[[str], Engine]] = {EngineKind.PODMAN: Podman, EngineKind.DOCKER: Docker}


def launcher(config: GuardConfig, places: Places, socket: Path, **changed: Any) -> ContainerLauncher:
    settings = ContainerSettings(**{"images": {"fake": {"image": IMAGE}}, "memory_limit": 2**30, **changed})
    readable = (places.models, places.engines)
    around = Surroundings(OWNER, settings, places.handover, readable, (*CALLERS, "fd00::/8"))
    return ContainerLauncher(lambda: ENGINES[config.engine](str(socket)), around)


def launch_file(places: Places, worker: str = "w", **changed: Any) -> Path:
    spec = WorkerSpec(id=worker, model="m", engine="fake", devices=(GPU,))
    launch = WorkerLaunch(worker=spec, host="127.0.0.1", port=9000, token="t", fleet=FLEET, **changed)
    path = places.root / f"{worker}.json"
    path.write_bytes(encode(launch))
    return path


@pytest.fixture
def made(config: GuardConfig, places: Places, guarded: Path) -> ContainerLauncher:
    return launcher(config, places, guarded)


async def test_a_worker_lives_from_start_to_forget(
    made: ContainerLauncher, places: Places, engine: RecordingEngine
) -> None:
    """Start, list, log, stop, kill and forget work as without a guard, and the copied launch file is gone after."""
    await made.start("w", launch_file(places, model_path=str(model(places))), DIGEST)
    copied = places.handed / "w"
    text, running = (copied / "launch.json").read_text(), (await made.list())["w"]
    log = await made.logs("w", 1)
    await made.stop("w")
    await made.kill("w")
    ended = (await made.list())["w"]
    await made.forget("w")
    assert (running.phase, running.spec, ended.phase) == (Phase.RUNNING, DIGEST, Phase.ENDED)
    assert json.loads(text)["worker"]["id"] == "w"
    assert log == "event=ready"
    assert engine.containers == []
    assert not copied.exists()


async def test_a_worker_is_who_the_guard_says(made: ContainerLauncher, places: Places, engine: RecordingEngine) -> None:
    """User, groups and the folder of the launch file are the guard's; folders are mounted as a whole, read-only."""
    await made.start("w", launch_file(places, model_path=str(model(places))), DIGEST)
    body = engine.containers[0].body
    podman = engine.podman
    shown = {
        (each.get("source") or each.get("Source")): each.get("options") or each.get("ReadOnly")
        for each in (body["mounts"] if podman else body["HostConfig"]["Mounts"])
        if (each.get("type") or each.get("Type")) == "bind"
    }
    folders = (places.handed / "w", places.models, places.engines, places.cache)
    assert (body["user"] if podman else body["User"]) == ACCOUNT.user
    assert (body["groups"] if podman else body["HostConfig"]["GroupAdd"]) == ["44", "991"]
    assert shown == dict.fromkeys(map(str, folders), ["bind", "private", "ro"] if podman else True)


async def test_the_engine_hears_whole_ids_and_nothing_of_the_hive(
    made: ContainerLauncher, places: Places, engine: RecordingEngine
) -> None:
    """What acts on a container names it by the id that was looked at; no header of the hive's client gets through."""
    await made.start("w", launch_file(places), DIGEST)
    container = engine.containers[0].id
    await made.stop("w")
    await made.forget("w")
    acted = [each for each in engine.changes() if "/containers/" in each.path and not each.path.endswith("/create")]
    assert len(acted) == 3
    assert all(container in each.path for each in acted)
    assert {name for each in engine.asked for name in each.headers} <= {
        *("host", "connection", "content-length", "content-type")
    }


async def test_a_log_is_followed_until_either_side_ends(
    made: ContainerLauncher, places: Places, engine: RecordingEngine
) -> None:
    """A follower gets lines as they come, and when it leaves, the engine's side ends too."""
    await made.start("w", launch_file(places), DIGEST)
    async with contextlib.aclosing(made.follow("w", 5)) as lines:
        line = await anext(line async for line in lines if "event=ready" in line)
        during = engine.followers
    await until(lambda: not engine.followers)
    assert (line, during) == ("event=ready", 1)


async def test_a_strangers_container_is_told_and_left_alone(
    made: ContainerLauncher, places: Places, engine: RecordingEngine
) -> None:
    """A name that is taken refuses the start with the launcher's sentence; nothing is done to the stranger's."""
    engine.add("rbee-worker-w", owner="somebody")
    with pytest.raises(LauncherError, match="called rbee-worker-w that is not of this hive"):
        await made.start("w", launch_file(places), DIGEST)
    await made.stop("w")
    await made.kill("w")
    assert await made.list() == {}
    assert [each.path for each in engine.changes()] == []


@pytest.mark.parametrize(
    ("settings", "launch", "said"),
    [
        (
            {"images": {"fake": {"image": "other:1"}}},
            {},
            "image 'other:1' may not be started: use one of registry.example/worker:1",
        ),
        ({"memory_limit": 2**41}, {}, "use a whole number of 1 to 1099511627776"),
        ({"memory_limit": None}, {}, "has no limit of memory: set one of at most"),
        ({}, {"model_path": "/etc/shadow"}, "'/etc/shadow' may not be mounted"),
    ],
)
async def test_a_refusal_arrives_as_a_sentence(
    kind: EngineKind, places: Places, engine: RecordingEngine, settings: Any, launch: Any, said: str
) -> None:
    """What the guard lets not through is told by LauncherError with its reason, and leaves nothing behind."""
    config = places.config(kind, memory_limit=2**40)
    engine.images.add("other:1")
    async with guarding(config) as socket:
        made = launcher(config, places, socket, **settings)
        with pytest.raises(LauncherError) as refusal:
            await made.start("w", launch_file(places, **launch), DIGEST)
    assert "rbee-guard: " in str(refusal.value)
    assert said in str(refusal.value)
    assert engine.containers == []
    assert list(places.handed.iterdir()) == []


@pytest.mark.parametrize("hive_says", [True, False])
@pytest.mark.parametrize(
    ("daemon", "config_of_logs"),
    [
        ("journald", {"Type": "journald"}),
        ("local", {"Type": "local"}),
        ("json-file", {"Type": "json-file", "Config": {"max-size": "8m"}}),
        ("gelf", {"Type": "json-file", "Config": {"max-size": "8m"}}),
        (None, {"Type": "json-file", "Config": {"max-size": "8m"}}),
    ],
)
@pytest.mark.parametrize("kind", [EngineKind.DOCKER])
async def test_dockers_own_choice_of_logs_counts_only_with_bounds(
    guarded: Path, places: Places, engine: RecordingEngine, daemon: Any, config_of_logs: Any, hive_says: bool
) -> None:
    """A launcher says so, and for a hive that leaves it out the guard does."""
    engine.instead = lambda asked: (
        (200, DOCKER_INFO | {"LoggingDriver": daemon}) if asked.path.endswith("/info") else None
    )
    if hive_says:
        made = launcher(places.config(EngineKind.DOCKER), places, guarded)
        await made.start("w", launch_file(places), DIGEST)
    else:
        model(places)
        hand_over(places, "w-1")
        body = create_body(places, EngineKind.DOCKER)
        del body["HostConfig"]["LogConfig"]
        await ask(guarded, "POST", create_target(EngineKind.DOCKER), body)
    (made_of,) = engine.containers
    assert made_of.body["HostConfig"]["LogConfig"] == config_of_logs


async def test_a_refused_stop_is_told(made: ContainerLauncher, places: Places, engine: RecordingEngine) -> None:
    """A container that is somebody else's by the time of the stop is not stopped, and that is a sentence as well."""
    await made.start("w", launch_file(places), DIGEST)
    looks = []

    def meddle(asked: Asked) -> None:
        looks.append(asked.path)
        if len(looks) == 2:
            engine.containers[0].labels = {"rbee.hive": "other"}

    # The client of Docker asks for its version before.
    await made.list()
    engine.meddle = meddle
    with pytest.raises(LauncherError, match="rbee-guard: container rbee-worker-w is not of this hive"):
        await made.stop("w")
    assert engine.containers[0].state == "running"


async def test_an_engine_that_is_away_is_told(config: GuardConfig, places: Places) -> None:
    """The guard stays up without an engine, says which command starts it, and serves once it is there."""
    async with guarding(config) as socket:
        made = launcher(config, places, socket)
        with pytest.raises(LauncherError) as refusal:
            await made.start("w", launch_file(places), DIGEST)
    unit = {"podman": "rbee-podman.service", "docker": "docker"}[config.engine]
    said = f"{config.engine} does not answer at {config.engine_socket}: run `systemctl start {unit}` on the host"
    assert said in str(refusal.value)


async def test_networks_are_made_shut(
    made: ContainerLauncher, config: GuardConfig, places: Places, engine: RecordingEngine
) -> None:
    """The launcher's network is made as it makes it alone, and is used by the next start."""
    engine.networks.clear()
    await made.start("w", launch_file(places), DIGEST)
    await made.start("v", launch_file(places, "v"), DIGEST)
    (network,) = engine.networks
    assert network.labels == {"rbee.fleet": FLEET}
    assert network.name == config.network
    if engine.podman:
        assert [each["destination"] for each in network.body["routes"]] == list(CALLERS)
    assert {each.labels["rbee.hive"] for each in engine.containers} == {HIVE}
