"""Whose containers a hive may touch: its own by whole names and ids, and nobody else's in any way."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.guard import bounds
from rbee_runtime.guard.config import EngineKind, GuardConfig
from tests.unit.guard.asking import LIBPOD, PREFIXES, ask, create_target, created
from tests.unit.guard.bodies import create_body, model
from tests.unit.guard.conftest import guarding
from tests.unit.guard.places import ACCOUNT, IMAGE, Places, hand_over
from tests.unit.guard.recording_engine import Asked, Made, RecordingEngine
from tests.unit.hive.waiting import until

OWN = {"rbee.fleet": "f", "rbee.hive": "h1", "rbee.worker": "w"}
FOREIGN = {
    "no labels": ("rbee-worker-w", {}),
    "another hive": ("rbee-worker-w", OWN | {"rbee.hive": "h2"}),
    "another fleet": ("rbee-worker-w", OWN | {"rbee.fleet": "g"}),
    "another worker": ("rbee-worker-w", OWN | {"rbee.worker": "v"}),
    "another name": ("postgres", OWN),
}
TIMEOUTS = {EngineKind.PODMAN: "timeout", EngineKind.DOCKER: "t"}


def actions(kind: EngineKind, name: str) -> list[tuple[str, str]]:
    container = f"{PREFIXES[kind]}/containers/{name}"
    return [
        ("POST", f"{container}/start"),
        ("POST", f"{container}/stop?{TIMEOUTS[kind]}=1"),
        ("POST", f"{container}/kill?signal=SIGTERM"),
        ("DELETE", f"{container}?v=True"),
        ("GET", f"/containers/{name}/logs?stdout=true&stderr=true&tail=5&follow=false"),
    ]


@pytest.mark.parametrize("whose", FOREIGN)
async def test_somebody_elses_container_is_left_alone(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, whose: str
) -> None:
    """Neither by its name nor by its id is anything done to it, and a look shows only that its name is taken."""
    name, labels = FOREIGN[whose]
    found = engine.add(name, **labels)
    answers = [await ask(guarded, *action) for each in (name, found.id) for action in actions(kind, each)]
    status, shown = await ask(guarded, "GET", f"{PREFIXES[kind]}/containers/{name}/json")
    assert {each for each, _ in answers} == {403}
    assert {document["message"] for _, document in answers} == {
        f"rbee-guard: container {name} is not of this hive, and it is left alone"
    }
    assert engine.changes() == []
    assert not [each for each in engine.asked if each.path.endswith("/logs")]
    assert (status, shown["Config"], shown["State"]) == (200, {"Labels": {}}, {"Status": "running"})
    assert set(shown) == {"Id", "Name", "Config", "State"}


async def test_the_beginning_of_an_id_is_no_name(guarded: Path, engine: RecordingEngine, kind: EngineKind) -> None:
    """Engines take it for the whole id, also of somebody else's container; the guard knows none of that name."""
    own, other = engine.add("rbee-worker-w", **OWN), engine.add("postgres")
    for found in (own, other):
        answers = [await ask(guarded, *action) for action in actions(kind, found.id[:12])]
        looked, _ = await ask(guarded, "GET", f"{PREFIXES[kind]}/containers/{found.id[:12]}/json")
        assert {status for status, _ in answers} == {404}
        assert looked == 404
    assert engine.changes() == []


async def test_what_was_looked_at_is_what_is_acted_on(guarded: Path, engine: RecordingEngine, kind: EngineKind) -> None:
    """A container that takes the name between look and stop is not the one that is stopped."""
    own = engine.add("rbee-worker-w", **OWN)

    def exchange(asked: Asked) -> None:
        if asked.path.endswith("/stop"):
            own.name = "was-renamed"
            engine.containers.append(Made("rbee-worker-w", state="running"))

    engine.meddle = exchange
    await ask(guarded, *actions(kind, "rbee-worker-w")[1])
    assert [each.state for each in engine.containers] == ["exited", "running"]


async def test_lists_show_a_hives_own(guarded: Path, engine: RecordingEngine, kind: EngineKind) -> None:
    """By label a hive sees its own workers, by network the names of who is in it, and of neither any more."""
    own = engine.add("rbee-worker-w", **OWN)
    engine.add("rbee-worker-v", **(OWN | {"rbee.fleet": "g"}))
    engine.add("postgres", **{"rbee.hive": "h1"})
    target = f"{PREFIXES[kind]}/containers/json?all=true&filters="
    _, by_label = await ask(guarded, "GET", target + '{"label":["rbee.hive=h1"]}'.replace('"', "%22"))
    _, by_network = await ask(guarded, "GET", target + '{"network":["rbee-workers"]}'.replace('"', "%22"))
    other, _ = await ask(guarded, "GET", target + '{"network":["bridge"]}'.replace('"', "%22"))
    assert [set(each) for each in by_label] == [{"Id", "Names", "Labels", "State"}]
    assert by_label[0]["Id"] == own.id
    assert [each["Names"][0].strip("/") for each in by_network] == ["rbee-worker-w", "rbee-worker-v", "postgres"]
    assert {name for each in by_network for name in each} == {"Id", "Names", "State"}
    assert other == 404


async def test_answers_say_no_more_than_launchers_read(
    guarded: Path, engine: RecordingEngine, kind: EngineKind
) -> None:
    """What the engine says of itself and of images is cut down."""
    _, info = await ask(guarded, "GET", f"{PREFIXES[kind]}/info")
    look = {
        "podman": f"{LIBPOD}/images/registry.example%2Fworker%3A1/exists",
        "docker": "/images/registry.example/worker:1/json",
    }
    status, image = await ask(guarded, "GET", look[kind])
    away, _ = await ask(guarded, "GET", look[kind].replace("worker", "other"))
    assert "secret" not in json.dumps(info)
    assert "kernel" not in json.dumps(info)
    assert (status, image) == ((204, None) if kind is EngineKind.PODMAN else (200, {}))
    assert away == 404


async def test_a_network_that_no_hive_made_stays(guarded: Path, engine: RecordingEngine, kind: EngineKind) -> None:
    """Without our label it is not removed."""
    (network,) = engine.networks
    network.labels = network.body["labels"] = {"x": "y"}
    status, document = await ask(guarded, "DELETE", f"{PREFIXES[kind]}/networks/rbee-workers")
    assert status == 403
    assert "was made by no hive" in document["message"]
    assert engine.changes() == []


async def test_a_name_that_is_taken_makes_nothing(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places
) -> None:
    """While there is a container of that name, what its worker was handed stays as it is."""
    model(places)
    hand_over(places, "w-1")
    body = create_body(places, kind)
    first, _ = await ask(guarded, "POST", create_target(kind), body)
    before = (places.handed / "w-1").stat().st_ino
    second, document = await ask(guarded, "POST", create_target(kind), body)
    assert (first, second) == (201, 409)
    assert "there is a container rbee-worker-w-1 already" in document["message"]
    assert (places.handed / "w-1").stat().st_ino == before
    assert len(created(engine)) == 1


async def test_there_is_an_end_of_containers(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places
) -> None:
    """A hive has at most two containers per port, so that it fills neither the disk nor the guard's folder."""
    model(places)
    hand_over(places, "w-1")
    for number in range(200):
        engine.add(f"rbee-worker-v{number}", **(OWN | {"rbee.worker": f"v{number}"}))
    refused, document = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    del engine.containers[0]
    made, _ = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    assert (refused, made) == (403, 201)
    assert "has 200 containers" in document["message"]


async def test_two_at_once_make_one(guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places) -> None:
    """Two requests for one worker at the same time are two in a row."""
    model(places)
    hand_over(places, "w-1")
    body = create_body(places, kind)
    answers = await asyncio.gather(*(ask(guarded, "POST", create_target(kind), body) for _ in range(4)))
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409]
    assert len(created(engine)) == 1


async def test_what_the_engine_refuses_leaves_no_copy(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places
) -> None:
    """A container that was not made has nothing handed over, and the engine's own sentence arrives."""
    model(places)
    hand_over(places, "w-1")
    full = {"message": "no space", "cause": "x", "response": 500}
    engine.instead = lambda asked: (500, full) if asked.path.endswith("/create") else None
    status, document = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    assert (status, document["message"]) == (500, "no space")
    assert list(places.handed.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "status"),
    [
        ("LD_PRELOAD=/opt/x.so", 403),
        ("LD_AUDIT=/opt/x.so", 403),
        ("LD_PRELOAD=", 201),
        ("LD_LIBRARY_PATH=/usr/local/cuda/lib64", 201),
        ("NVIDIA_VISIBLE_DEVICES=all", 201),
    ],
)
async def test_an_image_loads_no_code_by_its_variables(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places, variable: str, status: int
) -> None:
    """One that would is refused by the name of the variable, though the settings allow the image."""
    model(places)
    hand_over(places, "w-1")
    engine.image_env = (variable,)
    found, document = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    assert found == status
    if status == 403:
        name = variable.partition("=")[0]
        assert document["message"].startswith(f"rbee-guard: image {IMAGE} sets {name}, by which code of its own")
        assert document["message"].endswith(f"on top of it one with `ENV {name}=`")
        assert (created(engine), list(places.handed.iterdir())) == ([], [])


RECURSIVE = {"Propagation": "rprivate", "ReadOnlyForceRecursive": True}
FLAT = {"Propagation": "private", "NonRecursive": True}


@pytest.mark.parametrize(
    ("kind", "api", "kernel", "options"),
    [
        (EngineKind.PODMAN, "", "", ["bind", "private", "ro"]),
        (EngineKind.DOCKER, "1.45", "6.1.0-18-amd64", RECURSIVE),
        (EngineKind.DOCKER, "1.44", "5.12", RECURSIVE),
        (EngineKind.DOCKER, "1.43", "6.1", FLAT),
        (EngineKind.DOCKER, "1.5", "6.1", FLAT),
        (EngineKind.DOCKER, "1.45", "5.4.0-generic", FLAT),
        (EngineKind.DOCKER, "1.45", "", FLAT),
        (EngineKind.DOCKER, "1.45", None, FLAT),
    ],
)
async def test_nothing_below_a_folder_can_be_written_to(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places, api: str, kernel: Any, options: Any
) -> None:
    """What is mounted below is read-only too where Docker and its kernel can do that, and else it is not shown."""
    engine.version = {"ApiVersion": api, "KernelVersion": kernel}
    model(places)
    hand_over(places, "w-1")
    status, _ = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    (body,) = created(engine)
    mounts = body["mounts"] if kind is EngineKind.PODMAN else body["HostConfig"]["Mounts"]
    found = [each.get("BindOptions", each.get("options")) for each in mounts]
    assert status == 201
    assert [each for each in found if "mode=1777" not in each] == [options] * 4
    assert all(each.get("ReadOnly", True) for each in mounts)


async def test_an_image_that_is_gone_is_the_engines_to_tell(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places
) -> None:
    """What is not there cannot be looked at, and nothing is made."""
    model(places)
    hand_over(places, "w-1")
    engine.images.clear()
    status, document = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    assert status == 404
    assert "the engine says: No such image" in document["message"]
    assert created(engine) == []


async def test_a_running_container_keeps_what_it_was_handed(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places
) -> None:
    """A removal that the engine refuses removes nothing here; one that it does, does."""
    model(places)
    hand_over(places, "w-1")
    _, made = await ask(guarded, "POST", create_target(kind), create_body(places, kind))
    start, stop, _, remove, _ = actions(kind, made["Id"])
    await ask(guarded, *start)
    refused, _ = await ask(guarded, *remove)
    kept = (places.handed / "w-1/launch.json").exists()
    await ask(guarded, *stop)
    removed, _ = await ask(guarded, *remove)
    assert (refused, kept) == (409, True)
    assert removed in {200, 204}
    assert list(places.handed.iterdir()) == []


async def test_a_container_that_is_gone_is_removed_already(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, places: Places
) -> None:
    """Removing it once more clears up what its worker was handed, and each client gets the answer that it takes."""
    (places.handed / "w").mkdir()
    status, _ = await ask(guarded, "DELETE", f"{PREFIXES[kind]}/containers/rbee-worker-w{_ignored(kind)}")
    assert status == (200 if kind is EngineKind.PODMAN else 404)
    assert list(places.handed.iterdir()) == []


def _ignored(kind: EngineKind) -> str:
    return "?v=True&ignore=True" if kind is EngineKind.PODMAN else "?v=True&link=False&force=False"


async def test_a_start_of_the_guard_clears_up(config: GuardConfig, engine: RecordingEngine, places: Places) -> None:
    """Copies of workers whose container is gone are removed, also when the engine comes later; others stay."""
    engine.add("rbee-worker-w", **OWN)
    for worker in ("w", "v"):
        (places.handed / worker).mkdir()
    async with guarding(config):
        await until(lambda: not (places.handed / "v").exists())
    assert [path.name for path in places.handed.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, []), "no object where one belongs"),
        ((200, {"Id": "short", "Name": "rbee-worker-w"}), "no id of 64 digits"),
        ((200, {"Id": "0a" * 32, "Name": "rbee-worker-w", "Config": []}), "no object where one belongs"),
        ((500, {"message": "broken"}), "the engine says: broken"),
        ((302, {"x": "y"}), "answers in a way that is not understood"),
    ],
)
async def test_an_engine_that_talks_nonsense_is_told(
    guarded: Path, engine: RecordingEngine, kind: EngineKind, answer: tuple[int, Any], said: str
) -> None:
    """An answer of another shape ends in a sentence and in nothing done."""
    engine.instead = lambda _: answer
    status, document = await ask(guarded, *actions(kind, "rbee-worker-w")[1])
    assert status in {500, 502}
    assert said in document["message"]
    assert engine.changes() == []


async def test_no_worker_starts_without_the_rules_that_keep_it_in(
    places: Places, engine: RecordingEngine, kind: EngineKind
) -> None:
    """While their mark is away nothing is made or started, and all else goes on; once it is there, both are done."""
    config = places.config(kind, rules=places.root / "rules")
    model(places)
    hand_over(places, "w-1")
    engine.add("rbee-worker-w", **OWN, **{bounds.LABEL: bounds.digest(config, ACCOUNT)})
    make = ("POST", create_target(kind), create_body(places, kind))
    start = ("POST", f"{PREFIXES[kind]}/containers/rbee-worker-w/start")
    look = ("GET", f"{PREFIXES[kind]}/containers/rbee-worker-w/json")
    async with guarding(config) as socket:
        refused = [await ask(socket, *call) for call in (make, start)]
        seen, _ = await ask(socket, *look)
        (places.root / "rules").mkdir()
        done = [(await ask(socket, *call))[0] for call in (make, start)]
    assert [status for status, _ in refused] == [403, 403]
    assert all("run `systemctl restart rbee-network.service`" in document["message"] for _, document in refused)
    assert (seen, done) == (200, [201, 204])
