"""What a worker's container is, and how engines' answers are read; engines themselves are for hosts that have them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from docker import APIClient
from podman.api import client as podman_api

from rbee_runtime.config import ContainerSettings, HiveConfig, WorkerImage
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Phase, UnitStatus, containers, docker, handover, podman
from rbee_runtime.hive.launchers.around import PRIVATE, callers
from rbee_runtime.hive.launchers.containers import ContainerPlan, EngineFacts, Owner, Place
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode

OWNER = Owner("f", "h1", "boot-1")
EVERYTHING = EngineFacts(frozenset({"memory", "pids"}), log_driver="journald")
SETTINGS = ContainerSettings(images={"fake": WorkerImage(image="rbee-worker:1")}, memory_limit=2**30, pids_limit=100)


def launch(*, devices: tuple[str, ...] = (), **fields: Any) -> WorkerLaunch:
    spec = WorkerSpec(id="w-1", model="m", engine="fake", devices=devices)
    return WorkerLaunch(**{"worker": spec, "host": "0.0.0.0", "port": 9000, **fields})


def planned(*, settings: ContainerSettings = SETTINGS, facts: EngineFacts = EVERYTHING, **fields: Any) -> ContainerPlan:
    place = Place((Path("/models"),), uid=991, gid=992, groups=(993,))
    wanted = launch(**fields)
    return containers.plan(wanted, OWNER.labels("w-1", "abc"), settings, place, folder=Path("/state/w-1"), facts=facts)


def test_a_plan_says_whose_it_is_and_shows_only_what_is_read() -> None:
    """Name and labels identify the worker; its folder and the models are there, the engine is in the image."""
    plan = planned(engine_dir="/opt/rbee/engines/e1", model_path="")
    assert (plan.name, plan.image, plan.arguments) == (
        "rbee-worker-w-1",
        "rbee-worker:1",
        ("--spec", "/run/rbee/launch.json"),
    )
    assert dict(plan.labels) == {
        "rbee.fleet": "f",
        "rbee.hive": "h1",
        "rbee.worker": "w-1",
        "rbee.spec": "abc",
        "rbee.boot": "boot-1",
    }
    shown = {"/state/w-1": "/run/rbee", "/models": "/models"}
    assert {str(source): str(target) for source, target in plan.mounts.items()} == shown
    assert (plan.uid, plan.gid, plan.groups, plan.network) == (991, 992, (993,), "rbee-workers")


@pytest.mark.parametrize(("host", "address"), [("0.0.0.0", ""), ("::", ""), ("10.1.2.3", "10.1.2.3")])
def test_the_port_is_published_where_the_hive_listens(host: str, address: str) -> None:
    """Every address or the hive's own, the same port inside and outside."""
    plan = planned(host=host)
    assert (plan.address, plan.port) == (address, 9000)


@pytest.mark.parametrize(
    ("controllers", "limits", "refused"),
    [
        (("memory", "pids"), (2**30, 100), ()),
        (("pids",), (None, 100), ("memory",)),
        ((), (None, None), ("memory", "pids")),
    ],
)
def test_limits_are_set_where_the_host_has_them(
    controllers: tuple[str, ...], limits: tuple[int | None, int | None], refused: tuple[str, ...]
) -> None:
    """A limit that the host cannot hold is left out and named, and keeps no worker from starting."""
    facts = EngineFacts(frozenset(controllers))
    plan = planned(facts=facts)
    assert (plan.memory, plan.pids) == limits
    assert containers.refused_limits(SETTINGS, facts) == refused


@pytest.mark.parametrize(
    ("ids", "names", "nodes"),
    [
        ((), (), ()),
        (("cpu",), (), ()),
        (("simulated-0",), (), ()),
        (("GPU-0a1b", "MIG-7/1/0"), ("nvidia.com/gpu=GPU-0a1b", "nvidia.com/gpu=MIG-7/1/0"), ()),
        (("00d1ab23cd45ef67",), (), ("/dev/kfd", "/dev/dri")),
        (("0000:03:00.0",), (), ("/dev/dri",)),
    ],
)
def test_devices_are_named_as_engines_know_them(
    ids: tuple[str, ...], names: tuple[str, ...], nodes: tuple[str, ...]
) -> None:
    """NVIDIA by CDI, AMD and Intel by their device files, the rest by nothing."""
    assert containers.device_names(ids) == (names, nodes)


def test_a_model_that_lies_elsewhere_is_shown_too(tmp_path: Path) -> None:
    """A view that links to a file outside the models brings that file, at its own place."""
    outside, models = tmp_path / "cache" / "blob", tmp_path / "models"
    outside.parent.mkdir()
    outside.write_text("x")
    (models / "view").mkdir(parents=True)
    (models / "view" / "m.gguf").symlink_to(outside)
    place = Place((models,), uid=1, gid=1)
    wanted = launch(model_path=str(models / "view"))
    plan = containers.plan(wanted, {}, SETTINGS, place, folder=tmp_path, facts=EVERYTHING)
    assert plan.mounts[outside] == outside


def test_without_an_image_nothing_starts() -> None:
    """The sentence names the setting."""
    with pytest.raises(LauncherError, match=r"containers\.images\.fake"):
        planned(settings=ContainerSettings())


def test_inside_a_container_addresses_and_folders_are_its_own() -> None:
    """It listens on every address of its own network and finds certificates in its own folder."""
    seen = containers.inside(launch(host="10.1.2.3", tls_dir="/run/credentials/rbee-hive.service"))
    assert (seen.host, seen.tls_dir) == ("0.0.0.0", "/run/rbee")
    assert containers.inside(launch(token="t")).tls_dir == ""


HARD = {
    "podman": {
        "read_only": True,
        "no_new_privileges": True,
        "cap_drop": ["all"],
        "user": "991:992",
        "ipc_mode": "private",
        "pid_mode": "private",
        "network_mode": "bridge",
        "restart_policy": {"Name": "no"},
        "stop_timeout": 195,
        "log_config": {"Type": "journald"},
    },
    "docker": {
        "read_only": True,
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "user": "991:992",
        "ipc_mode": "private",
        "network_mode": "rbee-workers",
        "restart_policy": {"Name": "no"},
        "stop_timeout": 195,
    },
}


def words(engine: str, plan: ContainerPlan, facts: EngineFacts) -> dict[str, Any]:
    if engine == "podman":
        return podman.arguments(plan, facts)
    return {**docker.arguments(plan, facts), **docker.host_arguments(plan, facts)}


@pytest.mark.parametrize("engine", HARD)
def test_both_engines_are_told_to_lock_it_in(engine: str) -> None:
    """Each engine's own words carry every restriction of the plan, and no mount that can be written to."""
    said = words(engine, planned(), EVERYTHING)
    assert {key: said[key] for key in HARD[engine]} == HARD[engine]
    assert "privileged" not in said
    binds = [mount for mount in said["mounts"] if (mount.get("type") or mount.get("Type")) == "bind"]
    assert len(binds) == 2
    assert all(mount.get("read_only") or mount.get("ReadOnly") for mount in binds)


def test_rootless_podman_keeps_our_user() -> None:
    """Without root the container's user is the hive's, with the groups that it has."""
    said = podman.arguments(planned(), EngineFacts(rootless=True, log_driver="k8s-file"))
    assert (said["userns_mode"], said["group_add"]) == ("keep-id", ["keep-groups"])
    assert said["log_config"]["Config"]["size"] > 0


@pytest.mark.parametrize(
    ("cdi", "driver", "ids"), [(True, "cdi", ["nvidia.com/gpu=GPU-1"]), (False, "nvidia", ["GPU-1"])]
)
def test_docker_is_asked_for_gpus_in_the_way_it_knows(cdi: bool, driver: str, ids: list[str]) -> None:
    """By CDI where the daemon has it, else by NVIDIA's runtime."""
    (request,) = docker.requests_of(("nvidia.com/gpu=GPU-1",), EngineFacts(cdi=cdi))
    assert (request["Driver"], request["DeviceIDs"]) == (driver, ids)


def found(status: str, **state: Any) -> Mapping[str, Any]:
    return {"State": {"Status": status, **state}, "Config": {"Labels": OWNER.labels("w-1", "abc")}}


@pytest.mark.parametrize(
    ("answer", "told", "status"),
    [
        (found("running", Pid=7), {}, UnitStatus("w-1", Phase.RUNNING, pid=7, spec="abc")),
        (found("running", Pid=7), {"stopping": True}, UnitStatus("w-1", Phase.STOPPING, pid=7, spec="abc")),
        (found("stopping", Pid=7), {}, UnitStatus("w-1", Phase.STOPPING, pid=7, spec="abc")),
        (found("created"), {"starting": True}, UnitStatus("w-1", Phase.STARTING, spec="abc")),
        (found("created", Error="no"), {}, UnitStatus("w-1", Phase.ENDED, spec="abc", said="no")),
        (found("exited", ExitCode=0), {}, UnitStatus("w-1", Phase.ENDED, spec="abc", exit_status=0)),
        (found("exited", ExitCode=65), {}, UnitStatus("w-1", Phase.ENDED, spec="abc", exit_status=65)),
        (found("exited", ExitCode=139), {}, UnitStatus("w-1", Phase.ENDED, spec="abc", exit_signal=11)),
        (
            found("exited", ExitCode=137, OOMKilled=True),
            {},
            UnitStatus("w-1", Phase.ENDED, spec="abc", exit_signal=9, out_of_memory=True),
        ),
        (found("exited", ExitCode=-1), {}, UnitStatus("w-1", Phase.ENDED, spec="abc")),
    ],
)
def test_an_engines_answer_is_a_workers_state(
    answer: Mapping[str, Any], told: dict[str, bool], status: UnitStatus
) -> None:
    """States, exit statuses, signals and want of memory are told apart."""
    assert containers.status_of(answer, **told) == status


def test_what_a_worker_is_handed_is_for_it_alone(tmp_path: Path) -> None:
    """Launch file and certificates are 0400 in a folder of 0700; a second hand-over replaces the first."""
    certificates = tmp_path / "tls"
    certificates.mkdir()
    for name in containers.CERTIFICATES:
        (certificates / name).write_text("PEM")
    file = tmp_path / "w-1.json"
    file.write_bytes(encode(launch(tls_dir=str(certificates))))
    folder = tmp_path / "containers" / "w-1"
    for _ in range(2):
        handover.write(folder, handover.read(file), handover.worker_ids())
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys((*containers.CERTIFICATES, "launch.json"), 0o400)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert handover.worker_ids()[0] != 0


def test_a_missing_certificate_is_one_sentence(tmp_path: Path) -> None:
    """The file and what to do are named, and nothing half-written stays."""
    folder = tmp_path / "w-1"
    with pytest.raises(LauncherError, match=r"need ca\.pem beside the hive's certificates"):
        handover.write(folder, launch(tls_dir=str(tmp_path)), handover.worker_ids())
    assert not folder.exists()


@pytest.mark.parametrize(
    ("settings", "public"),
    [
        ({}, ()),
        ({"address": "192.168.1.2", "queen_url": "https://queen.lan:8501"}, ()),
        ({"advertise": "203.0.113.5", "queen_url": "https://203.0.113.9:8501"}, ("203.0.113.5/32", "203.0.113.9/32")),
    ],
)
def test_a_worker_answers_private_networks_and_its_own_queen(settings: dict[str, str], public: tuple[str, ...]) -> None:
    """Public addresses get answers only if they are the queen's or the hive's own."""
    assert callers(HiveConfig(**settings)) == (*PRIVATE, *public)


@pytest.mark.parametrize(
    ("given", "path"),
    [("unix:///run/x.sock", "/run/x.sock"), ("/run/x.sock", "/run/x.sock"), ("", "/nowhere/1")],
)
def test_a_socket_is_a_path_on_this_host(given: str, path: str) -> None:
    """A path and its URL form are the same; without a setting the first usual place stands."""
    assert containers.socket_path(given, (Path("/nowhere/1"), Path("/nowhere/2"))) == Path(path)


def test_an_engine_elsewhere_is_refused() -> None:
    """A container engine over the network is nobody's worker host."""
    with pytest.raises(LauncherError, match="is no socket on this host"):
        containers.socket_path("tcp://192.0.2.1:2375", (Path("/x"),))


@pytest.mark.parametrize(("status", "refused"), [(204, False), (304, False), (404, False), (500, True)])
def test_podman_says_when_it_refuses_a_stop(monkeypatch: pytest.MonkeyPatch, status: int, refused: bool) -> None:
    """A container that has ended or is gone is fine; any other refusal is told instead of taken for a stop."""
    engine = podman.Podman("/nowhere/podman.sock")
    plain = requests.Response()
    plain.status_code, plain._content = status, b'{"cause": "", "message": "no cgroup", "response": 500}'
    monkeypatch.setattr(engine._api, "post", lambda *_, **__: podman_api.APIResponse(plain))
    with pytest.raises(LauncherError, match="no cgroup") if refused else contextlib.nullcontext():
        engine.ask_stop("rbee-worker-w", 10)


@pytest.mark.parametrize(("status", "refused"), [(204, False), (304, False), (404, False), (403, True), (500, True)])
def test_docker_says_when_it_refuses_a_stop(monkeypatch: pytest.MonkeyPatch, status: int, refused: bool) -> None:
    """So does Docker, in the engine's own words and not as one that does not answer."""
    client = APIClient("unix:///nowhere", version="1.45")
    monkeypatch.setattr("docker.APIClient", lambda *_, **__: client)
    engine = docker.Docker("/nowhere/docker.sock")
    plain = requests.Response()
    plain.status_code, plain._content = status, b'{"message": "no cgroup"}'
    monkeypatch.setattr(client, "post", lambda *_, **__: plain)
    with pytest.raises(LauncherError, match="no cgroup") if refused else contextlib.nullcontext():
        engine.ask_stop("rbee-worker-w", 10)
    client.close()
