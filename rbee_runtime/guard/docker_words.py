"""Bodies of calls to Docker: what a hive's client sends, read into our own words, and these said anew. Pure."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import bounds, views
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.fields import Fields, same
from rbee_runtime.guard.worker_container import (
    ARGUMENTS,
    CDI_VENDOR,
    INSIDE,
    MOST_DEVICES,
    MOST_SCRATCH,
    MOST_STOP_SECONDS,
    NODES,
    PROGRAM,
    SCRATCH,
    UNCHECKED,
    Devices,
    Limits,
    Logs,
    Mount,
    Published,
    WorkerContainer,
    check_groups,
    check_user,
    environment,
    read_address,
    read_gpu,
    read_identity,
    read_image,
    read_memory,
    read_mounts,
    read_pids,
    read_port,
)
from rbee_runtime.guard.worker_network import WorkerNetwork, differing, read_owner
from rbee_runtime.worker_bridge import NO_RESOLVER, bridge_of

LOG_SETTINGS = {"Type": "json-file", "Config": {"max-size": "8m"}}
BOUNDED = (Logs.JOURNALD, Logs.LOCAL)
"""These have bounds of their own, which a daemon's settings may narrow."""

RECURSIVE = {"Propagation": "rprivate", "ReadOnlyForceRecursive": True}
LEAST_API, LEAST_KERNEL = (1, 44), (5, 12)
"""Where Docker knows that word, and a kernel how to do it; older ones of either take it for nothing."""

FLAT = {"Propagation": "private", "NonRecursive": True}
LOCKED_IN: Mapping[str, Any] = {"Entrypoint": PROGRAM, "Cmd": ARGUMENTS}
HOST_LOCKED_IN: Mapping[str, Any] = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "IpcMode": "private",
    "RestartPolicy": {"Name": "no"},
    "Dns": [NO_RESOLVER],
}
_BRIDGE = "com.docker.network.bridge"
USUAL_NETWORK = {"Internal": False, "EnableIPv6": False}
"""What is so unless somebody says otherwise."""

SHUT: Mapping[str, str] = {f"{_BRIDGE}.enable_ip_masquerade": "false", f"{_BRIDGE}.enable_icc": "false"}


def read_container(name: str, body: Any, config: GuardConfig) -> WorkerContainer:
    """Return the container that a name and a body ask for; GuardError names what no worker may have."""
    fields = Fields(body)
    identity = read_identity(name, fields.inner("Labels"), config)
    for key, wanted in LOCKED_IN.items():
        fields.same(key, wanted)
    check = fields.inner("Healthcheck")
    for key, wanted in UNCHECKED.items():
        check.same(key, wanted)
    check.end()
    for key in ("AttachStdout", "AttachStderr"):
        # Whether a client that makes a container means to look on; nobody does here.
        fields.take(key)
    host = fields.inner("HostConfig")
    for key, wanted in HOST_LOCKED_IN.items():
        host.same(key, wanted)
    host.same("NetworkMode", config.network)
    devices = _devices(host)
    _check_environment(fields, devices)
    check_user(fields, "User")
    check_groups(host, "GroupAdd")
    found = WorkerContainer(
        identity=identity,
        image=read_image(fields.take("Image"), config),
        shown=read_mounts(_mounts(host), identity.worker, config),
        published=_published(fields, host, config),
        devices=devices,
        limits=Limits(read_memory(host, "Memory", config), read_pids(host, "PidsLimit", config)),
        scratch=_scratch(host),
        stop_seconds=fields.whole("StopTimeout", 0, MOST_STOP_SECONDS),
        logs=_logs(host),
    )
    host.end()
    fields.end()
    return found


def container_body(wanted: WorkerContainer, config: GuardConfig, account: Account, handed: Path) -> dict[str, Any]:
    """Return the body that makes a container; `handed` is the folder of its launch file."""
    port = str(wanted.published.port)
    binds = [(str(handed), INSIDE), *((str(folder), str(folder)) for folder in wanted.shown.folders)]
    limits = {"Memory": wanted.limits.memory, "PidsLimit": wanted.limits.pids}
    host = {
        **HOST_LOCKED_IN,
        "NetworkMode": config.network,
        "PortBindings": {f"{port}/tcp": [{"HostIp": wanted.published.address, "HostPort": port}]},
        "Mounts": [_bind(*each, recursive=wanted.shown.recursive) for each in binds],
        "Tmpfs": {SCRATCH: f"size={wanted.scratch},mode=1777"},
        "GroupAdd": [str(group) for group in account.groups],
        "Devices": [_node(node) for node in wanted.devices.nodes],
        "DeviceRequests": _requests(wanted.devices),
        **{name: most for name, most in limits.items() if most is not None},
        "LogConfig": {"Type": str(wanted.logs)} if wanted.logs in BOUNDED else LOG_SETTINGS,
    }
    return {
        **LOCKED_IN,
        "Image": wanted.image,
        "Env": _environment(wanted.devices),
        "User": account.user,
        "Labels": wanted.identity.labels(config) | {bounds.LABEL: bounds.digest(config, account)},
        "ExposedPorts": {f"{port}/tcp": {}},
        "StopTimeout": wanted.stop_seconds,
        "Healthcheck": UNCHECKED,
        "HostConfig": host,
    }


def read_network(body: Any, config: GuardConfig) -> WorkerNetwork:
    """Return the network that a body asks for."""
    fields = Fields(body)
    fields.same("Name", config.network)
    for name, wanted in _shut(config).items():
        fields.same(name, wanted)
    read_owner(fields.inner("Labels"), config)
    # Of older clients: the daemon has looked for a second network of a name by itself for long.
    fields.take("CheckDuplicate")
    fields.end()
    return WorkerNetwork()


def network_body(config: GuardConfig) -> dict[str, Any]:
    """Return the body that makes a network without a way out."""
    return {**_shut(config), "Name": config.network, "Labels": {"rbee.fleet": config.fleet}}


def open_in(found: Mapping[str, Any], config: GuardConfig) -> tuple[str, ...]:
    """Return what of a network is other than `network_body` has it made, as Docker describes it."""
    wanted = {**_shut(config), **USUAL_NETWORK}
    options = differing(wanted.pop("Options"), views.an_object(found.get("Options")))
    return (*differing(wanted, found), *options)


def _shut(config: GuardConfig) -> dict[str, Any]:
    return {"Driver": "bridge", "Options": {**SHUT, f"{_BRIDGE}.name": bridge_of(config.network)}}


def _published(fields: Fields, host: Fields, config: GuardConfig) -> Published:
    bindings = host.take("PortBindings")
    if not isinstance(bindings, dict) or len(bindings) != 1:
        raise GuardError("HostConfig.PortBindings is no object with one port: publish the worker's port")
    (key,) = bindings
    number = re.fullmatch(r"([0-9]{1,5})/tcp", key)
    port = read_port(int(number[1]) if number else key, config)
    (binding,) = Fields(bindings, "PortBindings").objects(key, fewest=1, most=1)
    binding.same("HostPort", str(port))
    address = read_address(binding.take("HostIp"))
    binding.end()
    fields.same("ExposedPorts", {key: {}})
    return Published(address, port)


def _mounts(host: Fields) -> list[Mount]:
    found = []
    for mount in host.objects("Mounts", fewest=1, most=4096):
        mount.same("Type", "bind")
        mount.same("ReadOnly", wanted=True)
        found.append(Mount(*(mount.text(name, r"/[^\0]{0,4095}") for name in ("Source", "Target"))))
        mount.end()
    return found


def _scratch(host: Fields) -> int:
    given = host.inner("Tmpfs")
    size = int(given.text(SCRATCH, r"size=[0-9]{1,12},mode=1777").removeprefix("size=").partition(",")[0])
    given.end()
    if size > MOST_SCRATCH:
        raise GuardError(f"{SCRATCH} is given {size} bytes: use at most {MOST_SCRATCH}")
    return size


def _devices(host: Fields) -> Devices:
    nodes = []
    for device in host.objects("Devices", most=len(NODES)):
        node = device.one_of("PathOnHost", NODES)
        device.same("PathInContainer", node)
        device.same("CgroupPermissions", "rwm")
        device.end()
        nodes.append(node)
    requests = host.objects("DeviceRequests", most=1)
    if not requests:
        return Devices(nodes=tuple(nodes))
    (request,) = requests
    by_runtime = request.one_of("Driver", ("cdi", "nvidia")) == "nvidia"
    if by_runtime:
        request.same("Capabilities", [["gpu"]])
    names = request.items("DeviceIDs", fewest=1, most=MOST_DEVICES)
    request.end()
    gpus = [read_gpu(name, "" if by_runtime else CDI_VENDOR) for name in names]
    return Devices(tuple(gpus), tuple(nodes), by_runtime)


def _check_environment(fields: Fields, devices: Devices) -> None:
    wanted = _environment(devices)
    given = fields.items("Env", most=len(wanted))
    if not same(sorted(map(str, given)), sorted(wanted)):
        raise GuardError(f"Env is not what a worker's container has: set it to {', '.join(wanted)}")


def _environment(devices: Devices) -> list[str]:
    return [f"{name}={value}" for name, value in environment(devices).items()]


def _requests(devices: Devices) -> list[dict[str, Any]]:
    if not devices.gpus:
        return []
    if devices.by_runtime:
        return [{"Driver": "nvidia", "DeviceIDs": list(devices.gpus), "Capabilities": [["gpu"]]}]
    return [{"Driver": "cdi", "DeviceIDs": [CDI_VENDOR + gpu for gpu in devices.gpus]}]


def _bind(source: str, inside: str, *, recursive: bool) -> dict[str, Any]:
    options = RECURSIVE if recursive else FLAT
    return {"Type": "bind", "Source": source, "Target": inside, "ReadOnly": True, "BindOptions": options}


def _node(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


def _logs(host: Fields) -> Logs:
    given = host.take("LogConfig")
    if not given:
        return Logs.USUAL
    if not same(given, LOG_SETTINGS):
        raise GuardError("HostConfig.LogConfig is not what a worker's container has: leave it out or use json-file, 8m")
    return Logs.JSON_FILE


def reaches_below(version: Mapping[str, Any]) -> bool:
    """Say whether a daemon of this version can keep read-only what is mounted below a folder."""
    return _version(version.get("ApiVersion")) >= LEAST_API and _version(version.get("KernelVersion")) >= LEAST_KERNEL


def _version(text: Any) -> tuple[int, ...]:
    found = re.match(r"([0-9]{1,5})\.([0-9]{1,5})", str(text))
    return tuple(map(int, found.groups())) if found else ()


def bounded(daemon: Any) -> Logs:
    """Return where logs go if nobody says it: where the daemon puts them, unless that has no bounds or is elsewhere."""
    return Logs(daemon) if daemon in BOUNDED else Logs.JSON_FILE
