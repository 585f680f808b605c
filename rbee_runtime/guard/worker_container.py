"""A worker's container in no engine's words: all that a hive may choose about it, and nothing else can be said. Pure.

What launchers send in the same words is repeated here, since their modules need more than the standard library; a test
holds the two together.
"""

import ipaddress
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rbee_runtime.errors import GuardError
from rbee_runtime.guard.config import MOST_BYTES, GuardConfig
from rbee_runtime.guard.fields import Fields

PREFIX = "rbee-worker-"
UNCHECKED = {"Test": ["NONE"]}
"""The hive asks its workers itself; the image's own check would start a program every half minute as well."""

PROGRAM = ["rbee-worker"]
ARGUMENTS = ["--spec", "/run/rbee/launch.json"]
ENVIRONMENT = {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # noqa: S108 - the place inside
VISIBLE, NO_GPU = "NVIDIA_VISIBLE_DEVICES", "void"
# CUDA's own images need LD_LIBRARY_PATH, so that one stays; it brings no code into what does not look for it.
PRELOADING = frozenset({"LD_PRELOAD", "LD_AUDIT"})
"""By these an image has code of its own loaded into whatever starts there, also into what an engine's helpers start."""

INSIDE = "/run/rbee"
SCRATCH = "/tmp"  # noqa: S108 - as above
MOST_SCRATCH = 256 * 1024 * 1024
MOST_STOP_SECONDS = 600
MOST_PIDS = 2**22
NODES = ("/dev/kfd", "/dev/dri")
MOST_DEVICES = 64

WORKER = r"[a-z0-9][a-z0-9-]{0,62}"
SPEC = r"[0-9a-f]{1,64}"
BOOT = r"[0-9a-f-]{1,64}"
# One device each: `all` and kinds of other vendors are none of these.
GPU = r"(GPU|MIG)-[0-9A-Za-z/-]{1,120}|[0-9]{1,3}"
CDI_VENDOR = "nvidia.com/gpu="


class Logs(StrEnum):
    """Where the engine keeps what a worker writes; "" is what it does unless told, which may know no bounds."""

    JOURNALD = "journald"
    LOCAL = "local"
    K8S_FILE = "k8s-file"
    JSON_FILE = "json-file"
    USUAL = ""


@dataclass(frozen=True)
class Identity:
    """Which worker it is, of which spec, during which boot of the host."""

    worker: str
    spec: str
    boot: str

    def labels(self, config: GuardConfig) -> dict[str, str]:
        """Return the labels of ownership."""
        return {
            "rbee.fleet": config.fleet,
            "rbee.hive": config.hive,
            "rbee.worker": self.worker,
            "rbee.spec": self.spec,
            "rbee.boot": self.boot,
        }


@dataclass(frozen=True)
class Shown:
    """The host's paths that a hive wants a worker to see, and the allowed folders that they are in.

    `recursive` says that the engine can keep read-only what is mounted below them; else that is not shown.
    """

    asked: tuple[Path, ...]
    folders: tuple[Path, ...]
    recursive: bool = False


@dataclass(frozen=True)
class Published:
    """The one port that is reached from outside; address "" is every address of the host."""

    address: str
    port: int


@dataclass(frozen=True)
class Devices:
    """Ids of GPUs and device files; `by_runtime` has Docker give the GPUs by NVIDIA's runtime instead of CDI."""

    gpus: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    by_runtime: bool = False


def environment(devices: Devices) -> dict[str, str]:
    """Return what a worker's container is told.

    Images of CUDA ask for all GPUs of the host by a variable. Where NVIDIA's runtime is the engine's usual one it would
    give them, whatever else is said, so the variable names what is given in that way, and else nothing.
    """
    return {**ENVIRONMENT, VISIBLE: ",".join(devices.gpus) if devices.by_runtime else NO_GPU}


@dataclass(frozen=True)
class Limits:
    """Bytes of memory and number of processes; None is no limit."""

    memory: int | None = None
    pids: int | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerContainer:
    """One container as a hive may have it; `scratch` are the bytes that it may write."""

    identity: Identity
    image: str
    shown: Shown
    published: Published
    devices: Devices
    limits: Limits
    scratch: int
    stop_seconds: int
    logs: Logs

    @property
    def worker(self) -> str:
        """Return the worker's id."""
        return self.identity.worker

    @property
    def name(self) -> str:
        """Return the container's name."""
        return container_name(self.worker)


@dataclass(frozen=True)
class Mount:
    """A read-only bind mount as a hive asks for it."""

    source: str
    target: str


def container_name(worker: str) -> str:
    """Return the name of a worker's container."""
    return PREFIX + worker


def worker_of(name: str) -> str | None:
    """Return the worker whose container has this name, None if it is no worker's."""
    worker = name.removeprefix(PREFIX)
    return worker if name.startswith(PREFIX) and re.fullmatch(WORKER, worker) else None


def owned_worker(labels: Mapping[str, Any], name: str, config: GuardConfig) -> str | None:
    """Return the worker of a container of this hive, None if it is somebody else's."""
    if (labels.get("rbee.fleet"), labels.get("rbee.hive")) != (config.fleet, config.hive):
        return None
    worker = worker_of(name)
    return worker if worker is not None and labels.get("rbee.worker") == worker else None


def read_identity(name: Any, labels: Fields, config: GuardConfig) -> Identity:
    """Return which worker has this name and these labels, which must be our own."""
    labels.same("rbee.fleet", config.fleet)
    labels.same("rbee.hive", config.hive)
    worker = labels.text("rbee.worker", WORKER)
    if name != container_name(worker):
        raise GuardError(f"the name is {ascii(name)[:80]}: a container of worker {worker} is called {PREFIX}{worker}")
    found = Identity(worker, labels.text("rbee.spec", SPEC), labels.text("rbee.boot", BOOT))
    labels.end()
    return found


def read_image(image: Any, config: GuardConfig) -> str:
    """Return an image that may be started."""
    if not isinstance(image, str) or image not in config.images:
        allowed = ", ".join(config.images) or "none"
        raise GuardError(f"image {ascii(image)[:80]} may not be started: use one of {allowed}, or add it to images")
    return image


def check_image(image: str, environment: Sequence[Any]) -> None:
    """Check that an image's own variables load no code; an empty one does not."""
    for each in environment:
        name, _, value = str(each).partition("=")
        if name in PRELOADING and value:
            raise GuardError(
                f"image {image} sets {name}, by which code of its own would get into whatever starts there: build it "
                f"without, or on top of it one with `ENV {name}=`"
            )


def read_mounts(mounts: Sequence[Mount], worker: str, config: GuardConfig) -> Shown:
    """Return what of the host a worker sees beside what it is handed.

    The folders are mounted, not the paths: a hive that can write to a folder could exchange a path in it between a look
    and its use, but not the folder itself.
    """
    handed = [mount.source for mount in mounts if mount.target == INSIDE]
    if handed != [str(config.handover / worker)]:
        raise GuardError(f"{INSIDE} is not what was handed to worker {worker}: mount {config.handover / worker} there")
    asked = [_own_place(mount) for mount in mounts if mount.target != INSIDE]
    return Shown(tuple(asked), tuple(sorted({_folder_of(path, config) for path in asked})))


def read_address(address: Any) -> str:
    """Return an address of the host that a port is published on, "" for all."""
    if address is None or address == "":
        return ""
    try:
        # A zone of IPv6 may hold any characters.
        return str(ipaddress.ip_address(str(address).replace("%", "%%")))
    except ValueError:
        raise GuardError(f"the port is published on {ascii(address)[:80]}: use an IP address of this host") from None


def read_port(port: Any, config: GuardConfig) -> int:
    """Return a port that workers may have."""
    first, last = config.ports
    if type(port) is not int or not first <= port <= last:
        raise GuardError(f"port {ascii(port)[:80]} is not for workers: use one of {first} to {last}")
    return port


def read_memory(fields: Fields, name: str, config: GuardConfig) -> int | None:
    """Return a limit of memory in bytes, None where there is none."""
    return _limit(fields, name, config.memory_limit or MOST_BYTES)


def read_pids(fields: Fields, name: str, config: GuardConfig) -> int | None:
    """Return a limit of processes, None where there is none."""
    return _limit(fields, name, config.pids_limit or MOST_PIDS)


def read_gpu(name: Any, vendor: str = CDI_VENDOR) -> str:
    """Return the id of one GPU in its CDI name."""
    found = re.fullmatch(f"{re.escape(vendor)}({GPU})", name) if isinstance(name, str) else None
    if found is None:
        raise GuardError(
            f"device {ascii(name)[:80]} may not be given to a worker: use {vendor}ID of one GPU, {' or '.join(NODES)}"
        )
    return found[1]


def check_user(fields: Fields, name: str) -> None:
    """Check that a body's user is numbers; which does not matter, since the guard sets its own."""
    fields.text(name, r"[0-9]{1,10}:[0-9]{1,10}")


def check_groups(fields: Fields, name: str) -> None:
    """Check that a body's groups are numbers; which does not matter either."""
    for group in fields.items(name, most=64):
        if not isinstance(group, str) or not re.fullmatch(r"[0-9]{1,10}", group):
            raise GuardError(f"{fields.path(name)} has {ascii(group)[:80]}: use numbers of groups")


def _limit(fields: Fields, name: str, most: int) -> int | None:
    value = fields.take(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise GuardError(f"{fields.path(name)} is {ascii(value)[:80]}: use a whole number of 1 to {most}")
    return value


def _own_place(mount: Mount) -> Path:
    source = mount.source
    plain = source.startswith("/") and not source.startswith("//") and posixpath.normpath(source) == source
    if mount.target != source or not plain or "\0" in source:
        raise GuardError(
            f"{ascii(source)[:200]} is mounted at {ascii(mount.target)[:200]}: workers see a path of the host at its "
            "own place, written without `..` and `//`"
        )
    return Path(source)


def _folder_of(path: Path, config: GuardConfig) -> Path:
    found = [folder for folder in config.models if path.is_relative_to(folder)]
    if not found:
        raise GuardError(
            f"{ascii(str(path))[:200]} may not be mounted: use a path below {', '.join(map(str, config.models))}, or "
            "add its folder to models"
        )
    return max(found, key=lambda folder: len(folder.parts))
