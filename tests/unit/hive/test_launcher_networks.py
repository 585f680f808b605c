"""The network of workers' containers: one that lets them out is made again or refused, never used."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from podman.api.client import APIResponse

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import docker, podman
from rbee_runtime.hive.launchers.networks import MARK, Network, usable
from tests.unit.hive.test_launcher_engine import MadeUpEngine, launch_file, launcher

CALLERS = ("10.0.0.0/8", "203.0.113.5/32", "fd00::/8")
ROUTES = [{"destination": each, "gateway": "10.89.0.1"} for each in CALLERS[:2]]
OURS = {MARK: "f"}
OPEN = Network({}, wrong=("no_default_route",))


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (Network(OURS), True),
        (Network({}), True),
        (Network(OURS, wrong=("isolate",)), False),
        (Network(OURS, routed=False), False),
        (Network(OURS, routed=False, users=("c",)), True),
    ],
)
def test_a_network_is_used_only_if_there_is_no_way_out(found: Network, answer: bool) -> None:
    """One that is as wanted is used, whoever made it; one of ours that is not is made again while it is empty."""
    assert usable("podman", "rbee-workers", found) is answer


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (OPEN, "called rbee-workers that no hive made.*no_default_route.*`podman network rm rbee-workers`"),
        (Network({}, routed=False), r"\(routes not as wanted\).*containers\.network"),
        (Network(OURS, wrong=("routes",), routed=False, users=("a",)), r"\(routes not as wanted\) and is in use"),
        (Network(OURS, wrong=("isolate",), users=("a", "b")), "isolate not as wanted.*remove the containers a, b, and"),
    ],
)
def test_a_network_with_a_way_out_starts_nothing(found: Network, said: str) -> None:
    """A stranger's network and one that is in use stay as they are, and the sentence says what to do."""
    with pytest.raises(LauncherError, match=said):
        usable("podman", "rbee-workers", found)


async def test_a_start_makes_its_network_again(tmp_path: Path) -> None:
    """What a hive that died halfway left open is removed and made anew before the worker starts."""
    engine = MadeUpEngine()
    engine.networks["rbee-workers"] = dataclasses.replace(OPEN, labels=OURS)
    await launcher(tmp_path, engine).start("w", launch_file(tmp_path), "abc")
    assert engine.networks == {"rbee-workers": Network({MARK: "laptop"})}
    assert len(engine.ran) == 1


async def test_a_start_leaves_a_strangers_network_alone(tmp_path: Path) -> None:
    """The worker does not start, and nothing is handed over, removed or made."""
    engine = MadeUpEngine()
    engine.networks["rbee-workers"] = OPEN
    with pytest.raises(LauncherError, match="that no hive made"):
        await launcher(tmp_path, engine).start("w", launch_file(tmp_path), "abc")
    assert (engine.networks, engine.ran) == ({"rbee-workers": OPEN}, [])
    assert not (tmp_path / "containers").exists()


class Slow(MadeUpEngine):
    """An engine whose networks are open for a moment while they are made."""

    made = 0

    def make_network(self, network: str, labels: Mapping[str, str], callers: tuple[str, ...]) -> None:
        self.made += 1
        self.networks[network] = dataclasses.replace(OPEN, labels=labels)
        time.sleep(0.1)
        super().make_network(network, labels, callers)


async def test_starts_at_once_make_one_network(tmp_path: Path) -> None:
    """A start waits for the network that another one is just making, and does not make it again."""
    engine = Slow()
    made, file = launcher(tmp_path, engine), launch_file(tmp_path)
    await asyncio.gather(*(made.start(worker, file, "abc") for worker in ("v", "w")))
    assert (engine.made, len(engine.ran)) == (1, 2)


class PodmanService:
    """Podman's networks behind its API; `refuses` removals, as if the hive ended before the first one."""

    def __init__(self, engine: podman.Podman, monkeypatch: pytest.MonkeyPatch) -> None:
        self.networks: dict[str, dict[str, Any]] = {}
        self.names: list[str] = []
        self.refuses = False
        for verb in ("get", "post", "delete"):
            monkeypatch.setattr(engine._api, verb, getattr(self, verb))

    def get(self, path: str, **_: Any) -> APIResponse:
        if path == "/containers/json":
            return answer(200, [{"Id": "1", "Names": self.names}])
        name = path.removeprefix("/networks/")
        return answer(200, self.networks[name]) if name in self.networks else answer(404, {})

    def post(self, path: str, data: str) -> APIResponse:
        made = json.loads(data)
        made.setdefault("subnets", [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}])
        self.networks[made["name"]] = made
        return answer(200, made)

    def delete(self, path: str, **_: Any) -> APIResponse:
        if self.refuses:
            return answer(500, {"cause": "", "message": "it ends here", "response": 500})
        del self.networks[path.removeprefix("/networks/")]
        return answer(200, {})


def answer(status: int, body: Any) -> APIResponse:
    plain = requests.Response()
    plain.status_code, plain._content = status, json.dumps(body).encode()
    return APIResponse(plain)


def test_podmans_network_is_as_wanted_once_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made passes the look at it, and only for the callers that it was made for."""
    engine = podman.Podman("/nowhere/podman.sock")
    service = PodmanService(engine, monkeypatch)
    before = engine.network("n", CALLERS)
    engine.make_network("n", OURS, CALLERS)
    service.names = ["w"]
    assert before is None
    assert engine.network("n", CALLERS) == Network(OURS, users=("w",))
    assert engine.network("n", CALLERS[:1]) == Network(OURS, routed=False, users=("w",))


def test_a_hive_that_ends_while_it_makes_podmans_network_leaves_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unfinished network has no default route, and is recognised as one to make again."""
    engine = podman.Podman("/nowhere/podman.sock")
    service = PodmanService(engine, monkeypatch)
    service.refuses = True
    with pytest.raises(LauncherError, match="it ends here"):
        engine.make_network("n", OURS, CALLERS)
    left = engine.network("n", CALLERS)
    assert left is not None
    assert (left.wrong, left.routed) == ((), False)


PODMAN: dict[str, Any] = podman.KIND | {
    "name": "n",
    "network_interface": "n",
    "options": podman.CLOSED,
    "routes": ROUTES,
}


@pytest.mark.parametrize(
    ("changed", "wrong", "routed"),
    [
        ({"options": podman.CLOSED | {"mtu": "1400"}}, (), True),
        ({"options": None}, ("no_default_route", "isolate"), True),
        ({"options": {"isolate": "true"}}, ("no_default_route",), True),
        ({"dns_enabled": True}, ("dns_enabled",), True),
        ({"internal": True}, ("internal",), True),
        ({"driver": "macvlan"}, ("driver",), True),
        ({"network_interface": "podman1"}, ("network_interface",), True),
        ({"routes": None}, (), False),
        ({"routes": [*ROUTES, {"destination": "0.0.0.0/0", "gateway": "10.89.0.1"}]}, ("routes",), False),
        ({"routes": [*ROUTES, {"destination": "198.51.100.0/31", "gateway": "10.89.0.1"}]}, ("routes",), False),
        ({"routes": [*ROUTES, {"destination": "198.51.100.7/32", "gateway": "10.89.0.1"}]}, (), False),
    ],
)
def test_podmans_networks_are_told_apart(changed: dict[str, Any], wrong: tuple[str, ...], routed: bool) -> None:
    """Kind, bridge, options and routes count; an option that rbee does not set does not."""
    assert podman.described(PODMAN | changed, CALLERS, ()) == Network({}, wrong, routed)


NAMED = {"com.docker.network.bridge.name": "n"}
OPTIONS = docker.CLOSED | NAMED
DOCKER: dict[str, Any] = docker.KIND | {"Id": "1", "Name": "n", "Labels": OURS, "Options": OPTIONS}


class DockerService:
    """Docker's client with one network, of which it also finds parts of the name."""

    def __init__(self, *_: object, **__: object) -> None:
        self.found = DOCKER

    def networks(self, names: list[str]) -> list[Mapping[str, Any]]:
        return [self.found] if names[0] in self.found["Name"] else []

    def containers(self, **_: object) -> list[Mapping[str, Any]]:
        return [{"Names": ["/w"]}]


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, ()),
        ({"Options": None}, tuple(OPTIONS)),
        ({"Options": OPTIONS | {"com.docker.network.bridge.enable_icc": "true"}}, tuple(docker.CLOSED)[1:]),
        ({"Internal": True}, ("Internal",)),
        ({"EnableIPv6": True}, ("EnableIPv6",)),
        ({"Options": OPTIONS | {"com.docker.network.bridge.name": "lan"}}, tuple(NAMED)),
        ({"Options": docker.CLOSED}, tuple(NAMED)),
    ],
)
def test_dockers_networks_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], wrong: tuple[str, ...]
) -> None:
    """Without address translation and traffic between containers, with our bridge; a longer name is another one."""
    monkeypatch.setattr(docker.docker, "APIClient", DockerService)  # type: ignore[attr-defined]
    engine = docker.Docker("/nowhere/docker.sock")
    monkeypatch.setattr(engine._api, "found", DOCKER | changed)
    assert engine.network("n", CALLERS) == Network(OURS, wrong, users=("w",))
    monkeypatch.setattr(engine._api, "found", DOCKER | {"Name": "n-2"})
    assert engine.network("n", CALLERS) is None
