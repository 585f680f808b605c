"""Bodies of calls to Podman: what a hive's client sends, read into our own words, and these said anew. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import bounds, labels, views
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.fields import Fields
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
from rbee_runtime.guard.worker_network import Subnet, WorkerNetwork, differing, read_owner, read_route, wide
from rbee_runtime.worker_bridge import bridge_of, mac_of

# Podman has no word for read-only that reaches what is mounted below, so that is left out.
READ_ONLY = ["bind", "private", "ro"]
LOG_BYTES = 8 * 1024 * 1024
PRIVATE = {"nsmode": "private"}
LOCKED_IN: Mapping[str, Any] = {
    "entrypoint": PROGRAM,
    "command": ARGUMENTS,
    "read_only_filesystem": True,
    "no_new_privileges": True,
    "cap_drop": ["all"],
    "ipcns": PRIVATE,
    "pidns": PRIVATE,
    "cgroupns": PRIVATE,
    "netns": {"nsmode": "bridge"},
    "restart_policy": "no",
    "image_volume_mode": "ignore",
    "sdnotifyMode": "ignore",
    "systemd": "false",
    "healthconfig": UNCHECKED,
}
SHUT: Mapping[str, Any] = {
    "driver": "bridge",
    "options": {"no_default_route": "true", "isolate": "true"},
}


def read_container(body: Any, config: GuardConfig) -> WorkerContainer:
    """Return the container that a body asks for; GuardError names what no worker may have."""
    fields = Fields(body)
    identity = read_identity(fields.take("name"), fields.inner("labels"), config)
    for name, wanted in LOCKED_IN.items():
        fields.same(name, wanted)
    fields.same("networks", _joined(identity.worker, config))
    check_user(fields, "user")
    check_groups(fields, "groups")
    mounts, scratch = _mounts(fields)
    devices = _devices(fields)
    fields.same("env", environment(devices))
    found = WorkerContainer(
        identity=identity,
        image=read_image(fields.take("image"), config),
        shown=read_mounts(mounts, identity.worker, config),
        published=_published(fields, config),
        devices=devices,
        limits=_limits(fields, config),
        scratch=scratch,
        stop_seconds=fields.whole("stop_timeout", 0, MOST_STOP_SECONDS),
        logs=_logs(fields),
    )
    fields.end()
    return found


def container_body(
    wanted: WorkerContainer, config: GuardConfig, account: Account, handed: Path, *, labelled: bool = False
) -> dict[str, Any]:
    """Return the body that makes a container; `handed` is the folder of its launch file.

    `labelled` is whether the host has SELinux, by which a container reads no folder but one with its label. Only what
    is rbee's own gets that; the operator's folders keep theirs, which preflight looks at.
    """
    # A Podman without root may label nothing but its user's own files, and makes no container where it cannot.
    labelling = labelled and account.inside is None
    binds = [(str(handed), INSIDE, labelling)]
    binds += [(str(each), str(each), labelling and labels.is_own(each)) for each in wanted.shown.folders]
    scratch = [f"size={wanted.scratch}", "mode=1777"]
    devices = [*(CDI_VENDOR + gpu for gpu in wanted.devices.gpus), *wanted.devices.nodes]
    port, address = wanted.published.port, wanted.published.address
    limits = {"memory": wanted.limits.memory, "pids": wanted.limits.pids}
    # An engine without root may write to the host's journal and not read it.
    logs = wanted.logs if account.inside is None else Logs.K8S_FILE
    return {
        **LOCKED_IN,
        "name": wanted.name,
        "labels": wanted.identity.labels(config) | {bounds.LABEL: bounds.digest(config, account)},
        "image": wanted.image,
        "env": environment(wanted.devices),
        "user": account.user,
        "groups": account.group_names,
        "networks": _joined(wanted.worker, config),
        "mounts": [
            *(_bind(*bind) for bind in binds),
            {"type": "tmpfs", "source": "tmpfs", "destination": SCRATCH, "options": scratch},
        ],
        "devices": [{"path": each} for each in devices],
        "portmappings": [
            {"container_port": port, "host_port": port, "protocol": "tcp", **({"host_ip": address} if address else {})}
        ],
        "resource_limits": {name: {"limit": most} for name, most in limits.items() if most is not None},
        "stop_timeout": wanted.stop_seconds,
        "log_configuration": {
            "driver": str(logs),
            **({"size": LOG_BYTES} if logs is Logs.K8S_FILE else {}),
        },
        "read_write_tmpfs": False,
        "httpproxy": False,
    }


def read_network(body: Any, config: GuardConfig, known: Subnet | None) -> WorkerNetwork:
    """Return the network that a body asks for; `known` are the addresses that Podman chose when it was asked last."""
    fields = Fields(body)
    fields.same("name", config.network)
    fields.same("network_interface", bridge_of(config.network))
    for name, wanted in SHUT.items():
        fields.same(name, wanted)
    read_owner(fields.inner("labels"), config)
    subnets = fields.objects("subnets", most=1)
    routes = fields.objects("routes", most=len(config.callers))
    fields.end()
    if not subnets and not routes:
        return WorkerNetwork()
    if known is None or not subnets:
        raise GuardError("the network has addresses that Podman did not choose: make it without any first")
    for name, value in (("subnet", known.subnet), ("gateway", known.gateway)):
        subnets[0].same(name, value)
    subnets[0].end()
    return WorkerNetwork(known, tuple(read_route(route, known, config) for route in routes))


def network_body(wanted: WorkerNetwork, config: GuardConfig) -> dict[str, Any]:
    """Return the body that makes a network without a way out."""
    shut = {**_shut(config), "name": config.network, "labels": {"rbee.fleet": config.fleet}}
    if wanted.subnet is None:
        return shut
    subnet = {"subnet": wanted.subnet.subnet, "gateway": wanted.subnet.gateway}
    routes = [{"destination": each, "gateway": wanted.subnet.gateway} for each in wanted.routes]
    return shut | {"subnets": [subnet], "routes": routes}


def open_in(found: Mapping[str, Any], config: GuardConfig) -> tuple[str, ...]:
    """Return what of a network is other than `network_body` has it made, as Podman describes it."""
    wanted = _shut(config)
    options = differing(wanted.pop("options"), views.an_object(found.get("options")))
    destinations = [views.an_object(route).get("destination") for route in views.a_list(found.get("routes"))]
    return (*differing(wanted, found), *options, *(("routes",) if wide(destinations, config) else ()))


def _shut(config: GuardConfig) -> dict[str, Any]:
    """Return what keeps a network shut; the host's rules know it by its bridge."""
    return {**SHUT, "network_interface": bridge_of(config.network), "internal": False, "dns_enabled": False}


def _joined(worker: str, config: GuardConfig) -> dict[str, Any]:
    """Return the one network, with the address by which the host's rules know a worker."""
    return {config.network: {"static_mac": mac_of(worker)}}


def _bind(source: str, target: str, labelling: bool) -> dict[str, Any]:
    options = [*READ_ONLY, *(["z"] if labelling else [])]
    return {"type": "bind", "source": source, "destination": target, "options": options}


def _mounts(fields: Fields) -> tuple[list[Mount], int]:
    binds: list[Mount] = []
    scratch: list[int] = []
    for mount in fields.objects("mounts", fewest=1, most=4096):
        if mount.one_of("type", ("bind", "tmpfs")) == "bind":
            source, target = (mount.text(name, r"/[^\0]{0,4095}") for name in ("source", "destination"))
            mount.same("options", ["ro"])
            binds.append(Mount(source, target))
        else:
            scratch.append(_scratch(mount))
        mount.end()
    if len(scratch) != 1:
        raise GuardError(f"mounts have {len(scratch)} places to write to: give the one at {SCRATCH}")
    return binds, scratch[0]


def _scratch(mount: Fields) -> int:
    mount.same("source", "tmpfs")
    mount.same("destination", SCRATCH)
    options = mount.items("options", fewest=2, most=2)
    settings = Fields(dict(each.split("=", 1) for each in options if isinstance(each, str) and "=" in each), "options")
    settings.same("mode", "1777")
    size = int(settings.text("size", r"[0-9]{1,12}"))
    settings.end()
    if size > MOST_SCRATCH:
        raise GuardError(f"{SCRATCH} is given {size} bytes: use at most {MOST_SCRATCH}")
    return size


def _devices(fields: Fields) -> Devices:
    gpus, nodes = [], []
    for device in fields.objects("devices", most=MOST_DEVICES):
        path = device.take("path")
        device.end()
        if path in NODES:
            nodes.append(path)
        else:
            gpus.append(read_gpu(path))
    return Devices(tuple(gpus), tuple(nodes))


def _published(fields: Fields, config: GuardConfig) -> Published:
    (published,) = fields.objects("portmappings", fewest=1, most=1)
    port = read_port(published.take("container_port"), config)
    published.same("host_port", port)
    published.same("protocol", "tcp")
    address = read_address(published.take("host_ip"))
    published.end()
    return Published(address, port)


def _limits(fields: Fields, config: GuardConfig) -> Limits:
    limits = fields.inner("resource_limits")
    memory, pids = limits.inner("memory"), limits.inner("pids")
    found = Limits(read_memory(memory, "limit", config), read_pids(pids, "limit", config))
    for each in (memory, pids, limits):
        each.end()
    return found


def _logs(fields: Fields) -> Logs:
    given = fields.inner("log_configuration")
    driver = Logs(given.one_of("driver", (Logs.JOURNALD, Logs.K8S_FILE)))
    if driver is Logs.K8S_FILE:
        given.same("size", LOG_BYTES)
    given.end()
    return driver
