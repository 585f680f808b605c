"""What a worker's container is, before any engine hears of it, and what an engine's answers mean. Pure."""

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime.config import ContainerSettings
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.worker_bridge import mac_of

PREFIX = "rbee-worker-"
INSIDE = Path("/run/rbee")
"""Where the launch file and the certificates appear inside."""

LAUNCH_NAME = "launch.json"
CERTIFICATES = ("ca.pem", "worker.pem", "worker.key")
STOP_SECONDS = 195
"""180 s for open streams, the rest to unload; as the units have it."""

TMP_BYTES = 256 * 1024 * 1024
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - inside a network of the container's own, of which one port is published
WILDCARDS = frozenset({ANY_ADDRESS, "::"})

_NVIDIA = re.compile(r"^(GPU|MIG)-[0-9A-Za-z/-]+$")
# AMD's unique ids, and the PCI addresses of cards that have none.
_AMD = re.compile(r"^[0-9a-f]{16}$")
_PCI = re.compile(r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
_NEVER_STARTED = frozenset({"created", "configured", "initialized"})
_RUNNING = frozenset({"running", "paused", "restarting", "stopping", "removing"})


@dataclass(frozen=True)
class Owner:
    """Whose containers they are: one hive of one fleet, during one boot of its host."""

    fleet: str
    hive: str
    boot: str

    def owns(self, labels: Mapping[str, str]) -> bool:
        """Say whether a container with these labels belongs to this hive, of whichever boot."""
        return (labels.get("rbee.fleet"), labels.get("rbee.hive")) == (self.fleet, self.hive)

    def labels(self, worker: str, spec: str) -> dict[str, str]:
        """Return the labels of a worker's container."""
        return {
            "rbee.fleet": self.fleet,
            "rbee.hive": self.hive,
            "rbee.worker": worker,
            "rbee.spec": spec,
            "rbee.boot": self.boot,
        }


@dataclass(frozen=True)
class EngineFacts:
    """What an engine can do on this host; `controllers` are the limits that its containers may have.

    `spares` says that containers live on when the engine ends.
    """

    controllers: frozenset[str] = frozenset()
    rootless: bool = False
    cdi: bool = True
    log_driver: str = ""
    spares: bool = True


@dataclass(frozen=True)
class Place:
    """The host's side of every container: folders that workers read, and who they are."""

    readable: tuple[Path, ...]
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """One container, in no engine's words.

    `mounts` are host paths that appear read-only at the values' places; `tmpfs` sizes in bytes by place. `address` ""
    is every address of the host. `mac` is that of the container's own card. `devices` are CDI names, `nodes` device
    files. None means no limit.
    """

    name: str
    image: str
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    uid: int
    gid: int
    groups: tuple[int, ...]
    mounts: Mapping[Path, Path]
    network: str
    mac: str
    address: str
    port: int
    tmpfs: Mapping[str, int]
    devices: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    memory: int | None = None
    pids: int | None = None
    program: str = "rbee-worker"
    stop_seconds: int = STOP_SECONDS


@dataclass(frozen=True)
class Seen:
    """One container in an engine's list."""

    id: str
    labels: Mapping[str, str]
    state: str


def container_name(worker: str) -> str:
    """Return the name of a worker's container."""
    return PREFIX + worker


def plan(
    launch: WorkerLaunch,
    labels: Mapping[str, str],
    settings: ContainerSettings,
    place: Place,
    *,
    folder: Path,
    facts: EngineFacts,
) -> ContainerPlan:
    """Return the container of a launch whose launch file and certificates lie in `folder`; LauncherError."""
    engine = launch.worker.engine
    if engine not in settings.images:
        raise LauncherError(
            f"no image has engine {engine}: name one under containers.images.{engine} in the hive's settings"
        )
    devices, nodes = device_names(launch.worker.devices)
    return ContainerPlan(
        name=container_name(launch.worker.id),
        image=settings.images[engine].image,
        labels=labels,
        arguments=("--spec", str(INSIDE / LAUNCH_NAME)),
        environment=_environment(devices, facts),
        uid=place.uid,
        gid=place.gid,
        groups=place.groups,
        mounts={folder: INSIDE} | {path: path for path in _readable(launch, place.readable)},
        network=settings.network,
        mac=mac_of(launch.worker.id),
        address="" if launch.host in WILDCARDS else launch.host,
        port=launch.port,
        tmpfs={"/tmp": TMP_BYTES},  # noqa: S108 - the place inside, not a file of ours
        devices=devices,
        nodes=nodes,
        memory=settings.memory_limit if "memory" in facts.controllers else None,
        pids=settings.pids_limit if "pids" in facts.controllers else None,
    )


def refused_limits(settings: ContainerSettings, facts: EngineFacts) -> tuple[str, ...]:
    """Return the limits that are set and that this host cannot hold a container to."""
    wanted = {"memory": settings.memory_limit is not None, "pids": settings.pids_limit > 0}
    return tuple(name for name, asked in wanted.items() if asked and name not in facts.controllers)


def inside(launch: WorkerLaunch) -> WorkerLaunch:
    """Return the launch as its container sees it."""
    tls_dir = str(INSIDE) if launch.tls_dir else ""
    return msgspec.structs.replace(launch, host=ANY_ADDRESS, tls_dir=tls_dir)


def device_names(ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return CDI names and device files for devices as the hive reports them; the CPU and simulated ones need none."""
    names = tuple(f"nvidia.com/gpu={each}" for each in ids if _NVIDIA.match(each))
    nodes = ["/dev/kfd"] if any(_AMD.match(each) for each in ids) else []
    nodes += ["/dev/dri"] if any(_AMD.match(each) or _PCI.match(each) for each in ids) else []
    return names, tuple(nodes)


def _environment(devices: Sequence[str], facts: EngineFacts) -> dict[str, str]:
    """Return the variables of a worker: where CDI gives GPUs, or none are given, NVIDIA's runtime gives nothing.

    Images of CUDA ask it for all GPUs of the host, and it may be the usual one there.
    """
    given = "void" if facts.cdi or not devices else ",".join(name.partition("=")[2] for name in devices)
    # A home that can be written to, and no look at the internet for what the hive already fetched.
    home = {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # noqa: S108 - its own tmpfs
    return home | {"NVIDIA_VISIBLE_DEVICES": given}


def _readable(launch: WorkerLaunch, folders: Iterable[Path]) -> list[Path]:
    """Return what to mount: the folders, and what the model's path leads to outside of them."""
    shown = list(folders)
    if launch.model_path:
        for path in targets(Path(launch.model_path)):
            if not any(path.is_relative_to(folder) for folder in shown):
                shown.append(path)
    return shown


def targets(model: Path) -> list[Path]:
    """Return the model's path and the real files behind it and, for a folder, behind what lies in it."""
    inner = sorted(model.iterdir()) if model.is_dir() else []
    return list(dict.fromkeys([model, model.resolve(), *(path.resolve() for path in inner)]))


def removed(worker: str) -> UnitStatus:
    """Return the worker of a container that somebody else took away."""
    said = f"its container {container_name(worker)} is gone, and it was not this hive that removed it"
    return UnitStatus(worker, Phase.ENDED, said=said)


def status_of(found: Mapping[str, Any], *, stopping: bool = False, starting: bool = False) -> UnitStatus:
    """Return the worker in an engine's answer to "inspect"."""
    state, labels = found["State"], found["Config"].get("Labels") or {}
    worker, spec, status = labels["rbee.worker"], labels.get("rbee.spec"), str(state.get("Status", "")).lower()
    if status in _NEVER_STARTED:
        phase = Phase.STARTING if starting else Phase.ENDED
        said = "" if starting else state.get("Error") or "its container was made and never started"
        return UnitStatus(worker, phase, spec=spec, said=said)
    if status in _RUNNING:
        phase = Phase.STOPPING if stopping or status in {"stopping", "removing"} else Phase.RUNNING
        return UnitStatus(worker, phase, pid=state.get("Pid") or None, spec=spec)
    return _ended(worker, spec, state)


def _ended(worker: str, spec: str | None, state: Mapping[str, Any]) -> UnitStatus:
    code = state.get("ExitCode")
    # Both engines say 128 + number for a signal; a worker's own statuses are far below.
    signal = code - 128 if code is not None and 128 < code < 192 else None
    return UnitStatus(
        worker,
        Phase.ENDED,
        spec=spec,
        exit_status=code if signal is None and code is not None and code >= 0 else None,
        exit_signal=signal,
        out_of_memory=bool(state.get("OOMKilled")),
        said=str(state.get("Error") or ""),
    )


def socket_path(given: str, usual: Sequence[Path]) -> Path:
    """Return the engine's socket: the one that is set, or the first usual one that exists; LauncherError."""
    if given:
        plain = given.removeprefix("unix://")
        if not posixpath.isabs(plain):
            raise LauncherError(
                f"containers.socket {given!r} is no socket on this host: give a path such as /run/podman/podman.sock"
            )
        return Path(plain)
    return next((path for path in usual if path.exists()), usual[0])
