"""Bodies as the launchers send them, made by their real clients' own code."""

import json
from pathlib import Path
from typing import Any

import docker
from podman.api import prepare_body
from podman.domain.containers_create import CreateMixin

from rbee_runtime.config import ContainerSettings, WorkerImage
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.hive.launchers import docker as docker_launcher
from rbee_runtime.hive.launchers import podman as podman_launcher
from rbee_runtime.hive.launchers.containers import ContainerPlan, EngineFacts, Owner, Place, plan
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec
from tests.unit.guard.places import BOOT, FLEET, HIVE, IMAGE, Places

OWNER = Owner(FLEET, HIVE, BOOT)
DRIVERS = {EngineKind.PODMAN: "k8s-file", EngineKind.DOCKER: "json-file"}
GPU, CARD = "GPU-1a2b", "0123456789abcdef"


def facts(kind: EngineKind, *, cdi: bool = True) -> EngineFacts:
    return EngineFacts(frozenset({"memory", "pids"}), log_driver=DRIVERS[kind], cdi=cdi)


def planned(
    places: Places,
    kind: EngineKind,
    worker: str = "w-1",
    *,
    devices: tuple[str, ...] = (GPU, CARD),
    cdi: bool = True,
) -> ContainerPlan:
    """Return a launcher's plan for a worker with a GPU, limits and a model."""
    spec = WorkerSpec(id=worker, model="m", engine="fake", devices=devices)
    launch = WorkerLaunch(worker=spec, host="10.0.0.2", port=9000, model_path=str(places.cache / "hub/model"))
    where = Place((places.models, places.engines), 12, 34, groups=(5,))
    settings = ContainerSettings(images={"fake": WorkerImage(image=IMAGE)}, memory_limit=2**30)
    folder = places.handover / worker
    return plan(launch, OWNER.labels(worker, "0a" * 8), settings, where, folder=folder, facts=facts(kind, cdi=cdi))


def create_body(places: Places, kind: EngineKind, worker: str = "w-1", **more: Any) -> dict[str, Any]:
    """Return the body that makes a worker's container; `more` is what `planned` takes."""
    wanted, can = planned(places, kind, worker, **more), facts(kind, cdi=more.get("cdi", True))
    if kind is EngineKind.PODMAN:
        sent = {"image": wanted.image, **podman_launcher.arguments(wanted, can)}
        return dict(json.loads(prepare_body(CreateMixin._render_payload(sent))))
    api = docker.APIClient("unix:///nowhere", version="1.45")
    host = api.create_host_config(**docker_launcher.host_arguments(wanted, can))
    sent = docker_launcher.arguments(wanted, can)
    del sent["name"]
    body = api.create_container_config(wanted.image, host_config=host, **sent)
    api.close()
    return {name: value for name, value in json.loads(json.dumps(body)).items() if value is not None}


def model(places: Places) -> Path:
    """Put a model into the cache."""
    path = places.cache / "hub/model"
    path.parent.mkdir(exist_ok=True)
    path.write_text("weights")
    return path
