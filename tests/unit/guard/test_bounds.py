"""A container that was made by other settings is started no more; one that runs is left as it is."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime import __version__
from rbee_runtime.errors import LauncherError
from rbee_runtime.guard import bounds
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.hive.launchers import Phase
from tests.unit.guard.asking import PREFIXES, ask, create_target
from tests.unit.guard.bodies import create_body, model
from tests.unit.guard.conftest import guarding
from tests.unit.guard.places import ACCOUNT, FLEET, HIVE, IMAGE, Places, hand_over
from tests.unit.guard.recording_engine import Asked, RecordingEngine
from tests.unit.guard.test_launchers_through_guard import DIGEST, launch_file, launcher

CHANGED: dict[str, Any] = {
    "engine": EngineKind.DOCKER,
    "fleet": "g",
    "hive": "h2",
    "images": (IMAGE, "registry.example/worker:2"),
    "models": (Path("/srv/host/models"),),
    "handed": Path("/run/other"),
    "network": "others",
    "ports": (9000, 9001),
    "user": "somebody",
    "callers": ("10.0.0.0/8",),
    "groups": (),
    "memory_limit": 2**30,
    "pids_limit": 100,
    "engine_user": "rbee-engine",
}
HARMLESS: dict[str, Any] = {
    "engine_socket": Path("/run/other.sock"),
    "handover": Path("/var/lib/other"),
    "listen": Path("/run/listen.sock"),
    "rules": Path("/run/rules"),
    "callers": ("192.168.0.0/16", "10.0.0.0/8"),
}
CONFIG = Places(Path("/srv/host")).config(EngineKind.PODMAN)


@pytest.mark.parametrize("name", CHANGED)
def test_whatever_bounds_a_container_counts(name: str) -> None:
    """Each setting that says what a worker may have or who it is makes another digest."""
    assert bounds.digest(replace(CONFIG, **{name: CHANGED[name]}), ACCOUNT) != bounds.digest(CONFIG, ACCOUNT)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_bounds_none_does_not_count(name: str) -> None:
    """Sockets, the hive's own folder, the mark of rules and the order of a list make none."""
    assert bounds.digest(replace(CONFIG, **{name: HARMLESS[name]}), ACCOUNT) == bounds.digest(CONFIG, ACCOUNT)


def test_every_setting_is_one_of_them() -> None:
    """A new setting counts from the start, or somebody said here that it does not."""
    assert {each.name for each in fields(GuardConfig)} == CHANGED.keys() | bounds.UNBOUND
    assert CHANGED.keys().isdisjoint(bounds.UNBOUND)


@pytest.mark.parametrize("changed", [{"uid": 7}, {"gid": 7}, {"groups": (5,)}, {"inside": Account(1, 1)}])
def test_who_workers_are_counts(changed: dict[str, Any]) -> None:
    """The numbers behind the names of user and groups are part of it."""
    assert bounds.digest(CONFIG, replace(ACCOUNT, **changed)) != bounds.digest(CONFIG, ACCOUNT)


def test_the_release_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release may make something else of the same settings."""
    before = bounds.digest(CONFIG, ACCOUNT)
    monkeypatch.setattr(bounds, "__version__", f"{__version__}.1")
    assert bounds.digest(CONFIG, ACCOUNT) != before


async def test_a_container_of_former_settings_is_not_started(
    config: GuardConfig, places: Places, engine: RecordingEngine, kind: EngineKind
) -> None:
    """After a change it is refused with what to do, can be removed, and the one that is made anew starts."""
    model(places)
    hand_over(places, "w-1")
    make = ("POST", create_target(kind), create_body(places, kind))
    container = f"{PREFIXES[kind]}/containers/rbee-worker-w-1"
    async with guarding(replace(config, pids_limit=5000)) as socket:
        assert (await ask(socket, *make))[0] == 201
    async with guarding(config) as socket:
        status, said = await ask(socket, "POST", f"{container}/start")
        stayed = engine.containers[0].state
        removed, _ = await ask(socket, "DELETE", f"{container}?v=true")
        made, _ = await ask(socket, *make)
        started, _ = await ask(socket, "POST", f"{container}/start")
    assert (status, stayed) == (403, "created")
    assert said["message"] == (
        "rbee-guard: container rbee-worker-w-1 was made by other settings than this guard has: remove it, and make it "
        "anew"
    )
    assert (removed, made, started) == (200 if engine.podman else 204, 201, 204)


async def test_a_worker_that_runs_is_adopted_whoever_made_it(
    config: GuardConfig, places: Places, engine: RecordingEngine
) -> None:
    """One without the label, of an older guard, is listed, logged and stopped, and nothing else is done to it."""
    engine.add("rbee-worker-w", **{"rbee.fleet": FLEET, "rbee.hive": HIVE, "rbee.worker": "w", "rbee.spec": DIGEST})
    engine.containers[0].log = ("event=ready",)
    async with guarding(config) as socket:
        made = launcher(config, places, socket)
        seen, log = (await made.list())["w"], await made.logs("w", 1)
        before = engine.changes()
        await made.stop("w")
    assert (seen.phase, seen.spec, log, before) == (Phase.RUNNING, DIGEST, "event=ready", [])
    assert [each.path.rpartition("/")[2] for each in engine.changes()] == ["stop"]


async def test_a_hive_makes_anew_what_it_may_not_start(
    config: GuardConfig, places: Places, engine: RecordingEngine
) -> None:
    """A guard whose settings change between a launcher's two calls refuses the second, and the next try is whole."""

    def forget_the_label(asked: Asked) -> None:
        if asked.path.endswith("/json") and len(engine.containers) == 1:
            engine.containers[0].labels.pop(bounds.LABEL, None)

    engine.meddle = forget_the_label
    async with guarding(config) as socket:
        made = launcher(config, places, socket)
        with pytest.raises(LauncherError, match=r"was made by other settings .*: remove it, and make it anew"):
            await made.start("w", launch_file(places), DIGEST)
        refused = (await made.list())["w"]
        engine.meddle = lambda _: None
        await made.start("w", launch_file(places), DIGEST)
        running = (await made.list())["w"]
    assert (refused.phase, running.phase) == (Phase.ENDED, Phase.RUNNING)
    assert len(engine.containers) == 1
