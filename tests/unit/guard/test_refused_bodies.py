"""No body that asks for more than a worker needs gets through the guard."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import docker_words, podman_words
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.worker_bridge import mac_of
from tests.unit.guard.places import IMAGE
from tests.unit.guard.rewriting import BODIES, HOST, PLACES, D, P, changed, rewritten, understood


def mount(source: str, target: str | None = None, *options: str) -> dict[str, Any]:
    options = options or ("ro",)
    return {"type": "bind", "source": source, "destination": target or source, "options": list(options)}


def docker_mount(source: str, target: str | None = None, **more: Any) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target or source, "ReadOnly": True, **more}


OWN = str(PLACES.models)
PODMAN_CASES: list[tuple[tuple[Any, ...], Any, str]] = [
    (("privileged",), True, "privileged is set"),
    (("Privileged",), True, "Privileged is set"),
    (("cap_add",), ["SYS_ADMIN"], "cap_add is set"),
    (("cap_drop",), [], "cap_drop is not what"),
    (("pidns",), {"nsmode": "host"}, "pidns is not what"),
    (("ipcns",), {"nsmode": "container", "value": "x"}, "ipcns is not what"),
    (("netns",), {"nsmode": "host"}, "netns is not what"),
    (("utsns",), {"nsmode": "host"}, "utsns is set"),
    (("userns",), {"nsmode": "keep-id"}, "userns is set"),
    (("idmappings",), {"UIDMap": [{}]}, "idmappings is set"),
    (("selinux_opts",), ["disable"], "selinux_opts is set"),
    (("seccomp_policy",), "empty", "seccomp_policy is set"),
    (("no_new_privileges",), False, "no_new_privileges is not what"),
    (("no_new_privileges",), 1, "no_new_privileges is not what"),
    (("read_only_filesystem",), ..., "read_only_filesystem is not what"),
    (("read_write_tmpfs",), True, "read_write_tmpfs is set"),
    (("rootfs",), "/", "rootfs is set"),
    (("volumes",), [{"Name": "x", "Dest": "/x"}], "volumes is set"),
    (("volumes_from",), ["other"], "volumes_from is set"),
    (("image_volumes",), [{"Source": "x"}], "image_volumes is set"),
    (("overlay_volumes",), [{}], "overlay_volumes is set"),
    (("secrets",), [{"source": "x"}], "secrets is set"),
    (("annotations",), {"run.oci.hooks.stderr": "x"}, "annotations is set"),
    (("sysctl",), {"kernel.core_pattern": "|/x"}, "sysctl is set"),
    (("oci_runtime",), "/tmp/x", "oci_runtime is set"),
    (("conmon_pid_file",), "/etc/cron.d/x", "conmon_pid_file is set"),
    (("cgroup_parent",), "/", "cgroup_parent is set"),
    (("hooks_dir",), ["/tmp"], "hooks_dir is set"),
    (("r_limits",), [{"type": "RLIMIT_CORE"}], "r_limits is set"),
    (("hostadd",), ["queen:1.2.3.4"], "hostadd is set"),
    (("pod",), "x", "pod is set"),
    (("entrypoint",), ["/bin/sh"], "entrypoint is not what"),
    (("command",), ["--spec", "/etc/passwd"], "command is not what"),
    (("env",), {"LD_PRELOAD": "/x"}, "env is not what"),
    (("env", "PATH"), "/x", "env is not what"),
    (("env", "NVIDIA_VISIBLE_DEVICES"), "all", "env is not what"),
    (("env", "NVIDIA_VISIBLE_DEVICES"), ..., "env is not what"),
    (("networks",), {"podman": {}}, "networks is not what"),
    (("networks",), {"rbee-workers": {}}, "networks is not what"),
    (("networks", "rbee-workers", "static_ips"), ["10.89.0.1"], "networks is not what"),
    (("networks", "rbee-workers", "static_mac"), mac_of("w-2"), "networks is not what"),
    (("networks", "rbee-workers", "interface_name"), "lo", "networks is not what"),
    (("restart_policy",), "always", "restart_policy is not what"),
    (("systemd",), "always", "systemd is not what"),
    (("image",), "other.example/evil:1", "may not be started"),
    (("image",), f"{IMAGE} ", "may not be started"),
    (("name",), "rbee-worker-w-2", "a container of worker w-1 is called"),
    (("name",), "rbee-worker-w-1\n", "a container of worker w-1 is called"),
    (("labels", "rbee.worker"), "../w", "labels.rbee.worker is not of the form"),
    (("labels", "rbee.worker"), "w-1\n", "labels.rbee.worker is not of the form"),
    (("labels", "rbee.hive"), "h2", "labels.rbee.hive is not what"),
    (("labels", "rbee.fleet"), "g", "labels.rbee.fleet is not what"),
    (("labels", "io.containers.autoupdate"), "registry", "labels.io.containers.autoupdate is set"),
    (("labels", "rbee.guard"), "0a" * 16, "labels.rbee.guard is set"),
    (("labels", "rbee.spec"), "$(x)", "labels.rbee.spec is not of the form"),
    (("mounts", 0), mount("/etc", "/run/rbee"), "is not what was handed"),
    (("mounts", 0), mount(str(PLACES.handover / "w-2"), "/run/rbee"), "is not what was handed"),
    (("mounts", 0), mount(f"{PLACES.handover}/./w-1", "/run/rbee"), "is not what was handed"),
    (("mounts", 0), mount(OWN), "is not what was handed"),
    (("mounts", 5), mount(str(PLACES.handover / "w-1"), "/run/rbee"), "is not what was handed"),
    (("mounts", 5), mount("/"), "'/' may not be mounted"),
    (("mounts", 5), mount("/etc"), "'/etc' may not be mounted"),
    (("mounts", 5), mount(f"{OWN}-private"), "may not be mounted"),
    (("mounts", 5), mount(f"{OWN}/../../../etc"), "without `..`"),
    (("mounts", 5), mount(f"//{OWN}"), "without `..`"),
    (("mounts", 5), mount(f"{OWN}/"), "without `..`"),
    (("mounts", 5), mount(OWN, "/usr/local/bin"), "at its own place"),
    (("mounts", 5), mount(f"{OWN}\0"), "mounts[5].source is not of the form"),
    (("mounts", 5), mount("relative"), "mounts[5].source is not of the form"),
    (("mounts", 5), mount(OWN, None, "rw"), "mounts[5].options is not what"),
    (("mounts", 5), mount(OWN, None, "ro", "rshared"), "mounts[5].options is not what"),
    (("mounts", 5), mount(OWN, None, "ro", "U"), "mounts[5].options is not what"),
    (("mounts", 5), mount(OWN) | {"uidMappings": [{}]}, "mounts[5].uidMappings is set"),
    (("mounts", 5), mount(OWN) | {"type": "volume"}, "mounts[5].type is 'volume'"),
    (("mounts", 4, "destination"), "/usr", "mounts[4].destination is not what"),
    (("mounts", 4, "options"), ["size=999999999999", "mode=1777"], "/tmp is given 999999999999 bytes"),
    (("mounts", 4, "options"), ["size=1", "mode=4777"], "options.mode is not what"),
    (("mounts", 4, "options"), ["size=1", "exec"], "options.mode is not what"),
    (("devices", 3), {"path": "/dev/mem"}, "device '/dev/mem' may not be given"),
    (("devices", 3), {"path": "nvidia.com/gpu=all"}, "may not be given"),
    (("devices", 3), {"path": "vendor.com/net=0"}, "may not be given"),
    (("devices", 3), {"path": "/dev/dri:/dev/x"}, "may not be given"),
    (("devices", 3), {"path": "/dev/kfd", "major": 1, "minor": 1}, "devices[3].major is set"),
    (("device_cgroup_rule",), [{"allow": True}], "device_cgroup_rule is set"),
    (("portmappings", 0, "host_port"), 22, "host_port is not what"),
    (("portmappings", 0, "container_port"), 22, "port 22 is not for workers"),
    (("portmappings", 0, "container_port"), True, "port True is not for workers"),
    (("portmappings", 0, "range"), 100, "portmappings[0].range is set"),
    (("portmappings", 0, "host_ip"), "queen", "published on 'queen'"),
    (("portmappings", 0, "host_ip"), "fe80::1%/x", "published on"),
    (("portmappings", 1), {"container_port": 9001}, "portmappings is not a list of 1 to 1"),
    (("publish_image_ports",), True, "publish_image_ports is set"),
    (("resource_limits", "unified"), {"x": "y"}, "resource_limits.unified is set"),
    (("resource_limits", "memory", "disableOOMKiller"), True, "resource_limits.memory.disableOOMKiller is set"),
    (("resource_limits", "memory", "limit"), -1, "resource_limits.memory.limit is -1"),
    (("resource_limits", "pids", "limit"), 2**40, "resource_limits.pids.limit is"),
    (("log_configuration", "driver"), "syslog", "log_configuration.driver is 'syslog'"),
    (("log_configuration", "path"), "/etc/cron.d/x", "log_configuration.path is set"),
    (("log_configuration", "size"), 10**12, "log_configuration.size is not what"),
    (("stop_timeout",), 10**6, "stop_timeout is 1000000"),
    (("user",), "root", "user is not of the form"),
    (("groups",), ["keep-groups"], "groups has 'keep-groups'"),
]
DOCKER_CASES: list[tuple[tuple[Any, ...], Any, str]] = [
    ((HOST, "Privileged"), True, "HostConfig.Privileged is set"),
    ((HOST, "privileged"), True, "HostConfig.privileged is set"),
    (("hostconfig",), {"Privileged": True}, "hostconfig is set"),
    ((HOST, "Binds"), ["/:/host"], "HostConfig.Binds is set"),
    ((HOST, "CapAdd"), ["ALL"], "HostConfig.CapAdd is set"),
    ((HOST, "CapDrop"), [], "HostConfig.CapDrop is not what"),
    ((HOST, "PidMode"), "host", "HostConfig.PidMode is set"),
    ((HOST, "IpcMode"), "host", "HostConfig.IpcMode is not what"),
    ((HOST, "UTSMode"), "host", "HostConfig.UTSMode is set"),
    ((HOST, "UsernsMode"), "host", "HostConfig.UsernsMode is set"),
    ((HOST, "CgroupnsMode"), "host", "HostConfig.CgroupnsMode is set"),
    ((HOST, "NetworkMode"), "host", "HostConfig.NetworkMode is not what"),
    ((HOST, "NetworkMode"), "container:x", "HostConfig.NetworkMode is not what"),
    ((HOST, "SecurityOpt"), ["no-new-privileges", "seccomp=unconfined"], "HostConfig.SecurityOpt is not what"),
    ((HOST, "VolumesFrom"), ["other"], "HostConfig.VolumesFrom is set"),
    ((HOST, "Runtime"), "x", "HostConfig.Runtime is set"),
    ((HOST, "CgroupParent"), "/", "HostConfig.CgroupParent is set"),
    ((HOST, "Sysctls"), {"kernel.x": "1"}, "HostConfig.Sysctls is set"),
    ((HOST, "Ulimits"), [{"Name": "core"}], "HostConfig.Ulimits is set"),
    ((HOST, "ExtraHosts"), ["queen:1.2.3.4"], "HostConfig.ExtraHosts is set"),
    ((HOST, "DeviceCgroupRules"), ["a *:* rwm"], "HostConfig.DeviceCgroupRules is set"),
    ((HOST, "MaskedPaths"), ["/x"], "HostConfig.MaskedPaths is set"),
    ((HOST, "Annotations"), {"x": "y"}, "HostConfig.Annotations is set"),
    ((HOST, "ReadonlyRootfs"), ..., "HostConfig.ReadonlyRootfs is not what"),
    ((HOST, "RestartPolicy"), {"Name": "always"}, "HostConfig.RestartPolicy is not what"),
    ((HOST, "Dns"), ["127.0.0.53"], "HostConfig.Dns is not what"),
    ((HOST, "AutoRemove"), True, "HostConfig.AutoRemove is set"),
    ((HOST, "PublishAllPorts"), True, "HostConfig.PublishAllPorts is set"),
    ((HOST, "OomKillDisable"), True, "HostConfig.OomKillDisable is set"),
    ((HOST, "Mounts", 0), docker_mount("/etc", "/run/rbee"), "is not what was handed"),
    ((HOST, "Mounts", 4), docker_mount("/var/run"), "'/var/run' may not be mounted"),
    ((HOST, "Mounts", 4), docker_mount(OWN, ReadOnly=False), "Mounts[4].ReadOnly is not what"),
    ((HOST, "Mounts", 4), docker_mount(OWN, Type="volume"), "Mounts[4].Type is not what"),
    (
        (HOST, "Mounts", 4),
        docker_mount(OWN, BindOptions={"Propagation": "rshared"}),
        "HostConfig.Mounts[4].BindOptions is set",
    ),
    ((HOST, "Tmpfs"), {"/tmp": "size=1,mode=1777", "/x": ""}, ""),
    ((HOST, "Tmpfs"), {"/tmp": "size=1,mode=1777,exec"}, "Tmpfs./tmp is not of the form"),
    ((HOST, "Tmpfs"), {"/tmp": "size=999999999999,mode=1777"}, "/tmp is given 999999999999 bytes"),
    ((HOST, "Devices", 2), {"PathOnHost": "/dev/mem"}, "HostConfig.Devices is not a list of 0 to 2"),
    ((HOST, "Devices", 0, "PathOnHost"), "/dev/mem", "HostConfig.Devices[0].PathOnHost is '/dev/mem'"),
    ((HOST, "Devices", 0, "PathInContainer"), "/dev/x", "PathInContainer is not what"),
    ((HOST, "DeviceRequests", 0, "Count"), -1, "DeviceRequests[0].Count is set"),
    ((HOST, "DeviceRequests", 0, "DeviceIDs"), ["nvidia.com/gpu=all"], "may not be given"),
    ((HOST, "DeviceRequests", 0, "Driver"), "x", "DeviceRequests[0].Driver is 'x'"),
    ((HOST, "DeviceRequests", 0, "Options"), {"x": "y"}, "DeviceRequests[0].Options is set"),
    ((HOST, "PortBindings"), {"22/tcp": [{"HostPort": "22"}]}, "port 22 is not for workers"),
    ((HOST, "PortBindings"), {"9000/udp": [{"HostPort": "9000"}]}, "port '9000/udp' is not for workers"),
    ((HOST, "PortBindings", "9000/tcp", 0, "HostPort"), "22", "HostPort is not what"),
    ((HOST, "PortBindings", "9000/tcp", 1), {"HostPort": "22"}, "is not a list of 1 to 1"),
    ((HOST, "LogConfig"), {"Type": "syslog"}, "HostConfig.LogConfig is not what"),
    ((HOST, "Memory"), 2**61, "HostConfig.Memory is"),
    ((HOST, "GroupAdd"), ["root"], "HostConfig.GroupAdd has 'root'"),
    (("Volumes",), {"/x": {}}, "Volumes is set"),
    (("Healthcheck",), {"Test": ["CMD", "x"]}, "Healthcheck.Test is not what"),
    (("NetworkingConfig",), {"EndpointsConfig": {"host": {}}}, "NetworkingConfig is set"),
    (("Env", 4), "LD_PRELOAD=/x", "Env is not a list of 0 to 4"),
    (("Env", 3), "NVIDIA_VISIBLE_DEVICES=all", "Env is not what"),
    (("Env", 3), ..., "Env is not what"),
    (("Env", 0), "HOME=/x", "Env is not what"),
    (("Entrypoint",), ["/bin/sh"], "Entrypoint is not what"),
    (("Cmd",), ["-c"], "Cmd is not what"),
    (("ExposedPorts", "22/tcp"), {}, "ExposedPorts is not what"),
    (("User",), "root", "User is not of the form"),
    (("Tty",), True, "Tty is set"),
    (("Labels", "rbee.guard"), "0a" * 16, "Labels.rbee.guard is set"),
    (("Labels", "rbee.worker"), "w-2", "a container of worker w-2 is called"),
    ((HOST,), [], "HostConfig is no object"),
]
CASES = [(P, *case) for case in PODMAN_CASES] + [(D, *case) for case in DOCKER_CASES]


@pytest.mark.parametrize(("kind", "path", "value", "said"), CASES)
def test_more_than_a_worker_needs_is_refused(kind: EngineKind, path: tuple[Any, ...], value: Any, said: str) -> None:
    """Every further right, place and device of a container is refused by the name of its field."""
    if not said:
        assert rewritten(kind, changed(BODIES[kind], path, value))[HOST]["Tmpfs"] == {"/tmp": "size=1,mode=1777"}
        return
    with pytest.raises(GuardError) as refusal:
        understood(kind, changed(BODIES[kind], path, value))
    assert said in str(refusal.value)
    assert refusal.value.status == 403


def places_in(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every place in a document, and the one behind the end of each list."""
    if isinstance(body, dict | list):
        items = body.items() if isinstance(body, dict) else enumerate(body)
        for key, inner in items:
            yield (*path, key)
            yield from places_in(inner, (*path, key))
        if isinstance(body, list):
            yield (*path, len(body))


def objects_in(body: Any) -> list[tuple[Any, ...]]:
    """Return every object in a document."""
    found: list[tuple[Any, ...]] = [()]
    for path in places_in(body):
        inner = body
        for step in path[:-1]:
            inner = inner[step]
        if (isinstance(inner, dict) or path[-1] < len(inner)) and isinstance(inner[path[-1]], dict):
            found.append(path)
    return found


NAMES = sorted({str(path[-1]) for _, path, *_ in CASES} | {"devices_from", "init_path", "timeout", "cgroupns", "umask"})
VALUES: list[Any] = [
    *(True, -1, 2**61, "host", "container:x", "/", "/etc", "rw", "ALL", "unconfined", "0:0", "root"),
    *({"nsmode": "host"}, {"nsmode": "path", "value": "/proc/1/ns/net"}, {"Name": "always"}, {"x": "y"}),
    *(["ALL"], ["/:/host"], ["/etc"], ["seccomp=unconfined"], ["rw", "rshared"], [{"path": "/dev/mem"}], [["x"]]),
    *(mount("/etc"), docker_mount("/etc"), mount("/etc", "/run/rbee"), {"path": "/dev/sda"}, {"HostPort": "22"}),
]
names = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).map(str.swapcase), st.text(max_size=8))


@settings(max_examples=400, deadline=None)
@given(data=st.data(), kind=st.sampled_from(EngineKind))
def test_no_change_reaches_the_engine(data: st.DataObject, kind: EngineKind) -> None:
    """A body with something dangerous anywhere is refused, or the engine gets the body of the one without it."""
    body = BODIES[kind]
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            path = (*data.draw(st.sampled_from(objects_in(body))), data.draw(names))
            value = data.draw(st.sampled_from([*VALUES, None, False, 0, "", [], {}]))
            inner = body
            for step in path[:-1]:
                inner = inner[step]
            if path[-1] in inner:
                continue
        else:
            path, value = data.draw(st.sampled_from(list(places_in(body)))), data.draw(st.sampled_from(VALUES))
        body = changed(body, path, value)
    try:
        got = rewritten(kind, body)
    except GuardError:
        return
    assert got == rewritten(kind, BODIES[kind])


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(EngineKind))
def test_what_locks_it_in_cannot_be_left_out(data: st.DataObject, kind: EngineKind) -> None:
    """Without any of the fields that take rights away, or with another value, a body is refused."""
    locked = list(podman_words.LOCKED_IN) if kind is P else [*docker_words.LOCKED_IN, *docker_words.HOST_LOCKED_IN]
    name = data.draw(st.sampled_from(locked))
    path = (name,) if name in BODIES[kind] else (HOST, name)
    here = BODIES[kind][name] if len(path) == 1 else BODIES[kind][HOST][name]
    value = data.draw(st.sampled_from([each for each in (..., None, *VALUES) if each is ... or each != here]))
    with pytest.raises(GuardError, match=name):
        understood(kind, changed(BODIES[kind], path, value))
