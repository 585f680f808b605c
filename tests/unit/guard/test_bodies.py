"""Bodies of new containers: the launchers' own go through as the guard would write them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from podman.api.client import APIClient

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import bounds, docker_words, podman_words, questions, worker_container
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.guard.worker_container import Logs
from rbee_runtime.hive.launchers import containers as launched
from rbee_runtime.hive.launchers import docker as docker_launcher
from rbee_runtime.hive.launchers import podman as podman_launcher
from tests.unit.guard.bodies import CARD, GPU, create_body, planned
from tests.unit.guard.places import ACCOUNT, IMAGE
from tests.unit.guard.rewriting import BODIES, HOST, PLACES, D, P, changed, rewritten, understood, without


def test_a_launchers_body_comes_out_as_it_went_in(kind: EngineKind) -> None:
    """All but user, groups, mounts and mark, which are the guard's, is said to the engine as the launcher says it."""
    others: tuple[str, ...] = ("user", "groups", "mounts", "User", "GroupAdd", "Mounts", "AttachStdout", "AttachStderr")
    device_defaults = ("Count", "Options") if kind is D else ()
    body = BODIES[kind]
    got = rewritten(kind, body)
    if kind is D:
        (asked,) = body["HostConfig"]["DeviceRequests"]
        (said,) = got["HostConfig"].pop("DeviceRequests")
        assert said == without(asked, *device_defaults)
        others += ("DeviceRequests",)
    marks = got["labels" if kind is P else "Labels"].pop(bounds.LABEL)
    assert without(got, *others) == without(body, *others)
    assert marks == bounds.digest(PLACES.config(kind), ACCOUNT)


HANDED = PLACES.handed / "w-1"
SEEN = ("/home/me/.cache/huggingface", "/mnt/nas/models", "/var/lib", "/var/lib/rbee-models", "/var/lib/rbee/models")


@pytest.mark.parametrize(
    ("labelled", "rootless", "given"),
    [(False, False, set()), (True, False, {str(HANDED), "/var/lib/rbee/models"}), (True, True, set())],
)
def test_what_is_rbees_own_is_labelled_where_that_counts(labelled: bool, rootless: bool, given: set[str]) -> None:
    """With SELinux rbee's own places get the label of containers, never the operator's, and none without root."""
    account = replace(ACCOUNT, inside=ACCOUNT) if rootless else ACCOUNT
    wanted = understood(P, BODIES[P])
    wanted = replace(wanted, shown=replace(wanted.shown, folders=tuple(map(Path, SEEN))))
    made = podman_words.container_body(wanted, PLACES.config(P), account, HANDED, labelled=labelled)
    options = {mount["source"]: mount["options"] for mount in made["mounts"] if mount["type"] == "bind"}
    plain = ["bind", "private", "ro"]
    assert options == {each: [*plain, "z"] if each in given else plain for each in (str(HANDED), *SEEN)}


def test_words_are_those_of_the_launchers() -> None:
    """What the guard repeats, since it may not import it, is what launchers and their clients say today."""
    plan = planned(PLACES, P)
    assert plan.name == worker_container.container_name("w-1")
    assert str(launched.INSIDE) == worker_container.INSIDE
    assert plan.environment == worker_container.environment(worker_container.Devices(gpus=(GPU,)))
    assert [plan.program, *plan.arguments] == [*worker_container.PROGRAM, *worker_container.ARGUMENTS]
    assert plan.tmpfs == {worker_container.SCRATCH: worker_container.MOST_SCRATCH}
    assert podman_words.LOG_BYTES == podman_launcher.LOG_BYTES
    assert podman_words.SHUT["options"] == podman_launcher.CLOSED
    assert docker_words.SHUT == docker_launcher.CLOSED
    assert docker_words.LOG_SETTINGS["Config"] == {"max-size": docker_launcher.LOG_SIZE}
    assert set(docker_words.BOUNDED) == docker_launcher.BOUNDED_LOGS
    assert APIClient("unix:///nowhere").path_prefix == f"{questions.LIBPOD}/"


def test_a_worker_is_read_from_its_body(kind: EngineKind) -> None:
    """Image, limits, devices, port and folders are those of the plan."""
    found = understood(kind, BODIES[kind])
    assert (found.worker, found.image, found.limits.memory, found.limits.pids) == ("w-1", IMAGE, 2**30, 4096)
    assert (found.devices.gpus, found.devices.nodes) == ((GPU,), worker_container.NODES)
    assert (found.published.address, found.published.port) == ("10.0.0.2", 9000)
    assert found.shown.folders == (PLACES.cache, PLACES.engines, PLACES.models)
    assert CARD not in json.dumps(rewritten(kind, BODIES[kind]))


@pytest.mark.parametrize("body", [None, [], "x", 1, {}])
def test_a_body_that_is_no_container_is_refused(kind: EngineKind, body: Any) -> None:
    """Whatever JSON comes, the answer is a sentence."""
    with pytest.raises(GuardError):
        understood(kind, body)


@pytest.mark.parametrize(
    ("kind", "path"), [(P, ("portmappings", 0, "host_ip")), (D, (HOST, "PortBindings", "9000/tcp", 0, "HostIp"))]
)
def test_a_port_may_be_on_every_address(kind: EngineKind, path: tuple[Any, ...]) -> None:
    """No address means all of them."""
    assert understood(kind, changed(BODIES[kind], path, "")).published.address == ""


@pytest.mark.parametrize("value", [..., None, {}])
def test_logs_have_bounds_though_nobody_says_it(value: Any) -> None:
    """Docker is told where logs go and how much of them stays, whatever it does by itself."""
    body = changed(BODIES[D], (HOST, "LogConfig"), value)
    assert understood(D, body).logs is Logs.USUAL
    assert rewritten(D, body)[HOST]["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "8m"}}


@pytest.mark.parametrize(("limit", "most"), [("memory_limit", 2**29), ("pids_limit", 100)])
def test_limits_are_not_exceeded(kind: EngineKind, limit: str, most: int) -> None:
    """A worker with more memory or processes than the settings allow is refused with the number."""
    with pytest.raises(GuardError, match=f"use a whole number of 1 to {most}"):
        understood(kind, BODIES[kind], **{limit: most})


def test_nvidias_runtime_gives_single_gpus() -> None:
    """Where Docker knows no CDI, GPUs are named by their ids, and never all at once."""
    body = create_body(PLACES, D, cdi=False)
    place = (HOST, "DeviceRequests", 0)
    (said,) = rewritten(D, body)[HOST]["DeviceRequests"]
    assert said == {"Driver": "nvidia", "DeviceIDs": [GPU], "Capabilities": [["gpu"]]}
    wrong: dict[str, Any]
    for wrong in ({"DeviceIDs": ["all"]}, {"Capabilities": [["gpu", "utility"]]}, {"DeviceIDs": []}):
        with pytest.raises(GuardError):
            understood(D, changed(body, place, body[HOST]["DeviceRequests"][0] | wrong))


@pytest.mark.parametrize(
    ("kind", "devices", "cdi", "visible"),
    [
        (P, (), True, "void"),
        (P, (GPU,), True, "void"),
        (D, (), True, "void"),
        (D, (GPU,), True, "void"),
        (D, (), False, "void"),
        (D, (CARD,), False, "void"),
        (D, (GPU,), False, GPU),
        (D, (GPU, "GPU-2"), False, f"{GPU},GPU-2"),
    ],
)
def test_nvidias_runtime_gives_what_was_asked_for(
    kind: EngineKind, devices: tuple[str, ...], cdi: bool, visible: str
) -> None:
    """An image cannot have it give all GPUs: launchers name those it gives, if any, and so does the guard."""
    body = create_body(PLACES, kind, devices=devices, cdi=cdi)
    sent, got = (variables(each) for each in (body, rewritten(kind, body)))
    assert sent == got
    assert got["NVIDIA_VISIBLE_DEVICES"] == visible


def variables(body: dict[str, Any]) -> dict[str, str]:
    if "env" in body:
        return dict(body["env"])
    return dict(each.split("=", 1) for each in body["Env"])


def test_other_gpus_than_the_given_are_not_visible() -> None:
    """What NVIDIA's runtime is told by the variable is held to the devices beside it."""
    body = create_body(PLACES, D, cdi=False)
    place = body["Env"].index(f"NVIDIA_VISIBLE_DEVICES={GPU}")
    for value in ("GPU-2", "all", "void", f"{GPU},GPU-2"):
        with pytest.raises(GuardError, match="Env is not what"):
            understood(D, changed(body, ("Env", place), f"NVIDIA_VISIBLE_DEVICES={value}"))
