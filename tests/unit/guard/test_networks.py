"""The workers' network is looked at before a worker gets into it: by its name alone it could be any other."""

from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.guard import bounds, docker_words, podman_words
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.worker_network import WorkerNetwork
from rbee_runtime.hive.launchers import docker as docker_launcher
from rbee_runtime.hive.launchers import podman as podman_launcher
from tests.unit.guard.asking import PREFIXES, ask, create_target, created
from tests.unit.guard.bodies import create_body, model
from tests.unit.guard.places import ACCOUNT, FLEET, HIVE, Places, hand_over
from tests.unit.guard.recording_engine import DOCKER_SHUT, PODMAN_SHUT, RecordingEngine, shut

P, D = EngineKind.PODMAN, EngineKind.DOCKER
NAME = "rbee-worker-w"
BRIDGE = "com.docker.network.bridge"
OPEN: list[tuple[EngineKind, dict[str, Any], str]] = [
    (P, {"driver": "macvlan"}, "driver"),
    (P, {"network_interface": "podman1"}, "network_interface"),
    (P, {"internal": True}, "internal"),
    (P, {"dns_enabled": True}, "dns_enabled"),
    (P, {"options": PODMAN_SHUT | {"no_default_route": "false"}}, "no_default_route"),
    (P, {"options": {"no_default_route": "true"}}, "isolate"),
    (P, {"options": None}, "no_default_route, isolate"),
    (P, {"routes": [{"destination": "0.0.0.0/0", "gateway": "10.89.0.1"}]}, "routes"),
    (P, {"routes": [{"destination": "10.0.0.0/7", "gateway": "10.89.0.1"}]}, "routes"),
    (P, {"routes": [{"gateway": "10.89.0.1"}]}, "routes"),
    (D, {"Driver": "host"}, "Driver"),
    (D, {"Internal": True}, "Internal"),
    (D, {"EnableIPv6": True}, "EnableIPv6"),
    (D, {"Options": DOCKER_SHUT | {f"{BRIDGE}.name": "docker0"}}, f"{BRIDGE}.name"),
    (D, {"Options": DOCKER_SHUT | {f"{BRIDGE}.enable_icc": "true"}}, f"{BRIDGE}.enable_icc"),
    (D, {"Options": {}}, f"{BRIDGE}.enable_ip_masquerade, {BRIDGE}.enable_icc, {BRIDGE}.name"),
]


async def both(guarded: Path, engine: RecordingEngine, config: GuardConfig, places: Places) -> list[tuple[int, Any]]:
    """Try to make a container and to start one that is there."""
    mine = {"rbee.fleet": FLEET, "rbee.hive": HIVE, "rbee.worker": "w", bounds.LABEL: bounds.digest(config, ACCOUNT)}
    engine.add(NAME, **mine).state = "created"
    model(places)
    hand_over(places, "w-1")
    make = ("POST", create_target(config.engine), create_body(places, config.engine))
    return [await ask(guarded, *make), await ask(guarded, "POST", f"{PREFIXES[config.engine]}/containers/{NAME}/start")]


@pytest.mark.parametrize(("kind", "changed", "wrong"), OPEN)
async def test_no_worker_gets_into_another_network(
    guarded: Path, engine: RecordingEngine, config: GuardConfig, places: Places, changed: dict[str, Any], wrong: str
) -> None:
    """One of another kind, on another bridge or with a way out is named with what of it is wrong."""
    engine.networks[:] = [shut(config, **changed)]
    answers = await both(guarded, engine, config, places)
    said = (
        f"rbee-guard: network rbee-workers is not one that keeps workers in ({wrong} not as wanted): remove it with "
        f"`{config.engine} network rm rbee-workers`, and the next start of a worker makes it anew"
    )
    assert [(status, document["message"]) for status, document in answers] == [(403, said)] * 2
    assert created(engine) == []
    assert engine.changes() == []


async def test_without_the_network_no_worker_starts(
    guarded: Path, engine: RecordingEngine, config: GuardConfig, places: Places
) -> None:
    """An engine would say so in its own way, or make one."""
    engine.networks.clear()
    answers = await both(guarded, engine, config, places)
    assert {status for status, _ in answers} == {403}
    assert {document["message"] for _, document in answers} == {
        "rbee-guard: there is no network rbee-workers for workers: have the hive make it first"
    }
    assert engine.changes() == []


@pytest.mark.parametrize(
    "routes", [[], [{"destination": "10.0.0.0/8"}], [{"destination": "10.0.0.0/8"}, {"destination": "172.16.0.9/32"}]]
)
@pytest.mark.parametrize("kind", [P])
async def test_a_network_may_lead_to_callers_of_other_hives(
    guarded: Path, engine: RecordingEngine, config: GuardConfig, places: Places, routes: list[dict[str, str]]
) -> None:
    """Hives of one host share it, so single addresses of others and fewer routes than ours are no reason."""
    engine.networks[:] = [shut(config, routes=routes)]
    assert [status for status, _ in await both(guarded, engine, config, places)] == [201, 204]


def test_what_is_demanded_is_what_is_made(config: GuardConfig) -> None:
    """Guard and launchers hold a network to the same settings, which are those that they make it with."""
    if config.engine is P:
        body = podman_words.network_body(WorkerNetwork(), config)
        assert podman_words.open_in(body, config) == ()
        wanted = {**podman_launcher._kind(config.network), **podman_launcher.CLOSED}
        lacking = podman_words.open_in({}, config)
    else:
        body = docker_words.network_body(config)
        assert docker_words.open_in({**docker_launcher.KIND, **body}, config) == ()
        wanted = {**docker_launcher.KIND, **docker_launcher._closed(config.network)}
        lacking = docker_words.open_in({}, config)
    assert sorted(lacking) == sorted(wanted)
