"""Docker by its SDK, over its socket."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import requests

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers.containers import ContainerPlan, EngineFacts, Owner, Seen, socket_path
from rbee_runtime.hive.launchers.networks import Network, differing
from rbee_runtime.worker_bridge import NO_RESOLVER, bridge_of

CALL_SECONDS = 60
ASK_SECONDS = 1.0
"""A stop lasts as long as the drain; the engine goes on with it when we hang up."""

LOG_SIZE = "8m"
BOUNDED_LOGS = frozenset({"journald", "local"})
"""Daemons whose usual one is another would keep logs without end, or send them elsewhere."""

SOCKETS = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))
_BRIDGE = "com.docker.network.bridge"
KIND = {"Driver": "bridge", "Internal": False, "EnableIPv6": False}
"""Addresses of IPv6 get out without being translated."""

CLOSED = {f"{_BRIDGE}.enable_ip_masquerade": "false", f"{_BRIDGE}.enable_icc": "false"}


class Docker:
    """The engine, for one hive."""

    name = "docker"

    def __init__(self, socket: str = "") -> None:
        self.socket = socket_path(socket, SOCKETS)
        with self._asked():
            # The oldest engine that the SDK speaks to is asked for its version once.
            self._api = docker.APIClient(f"unix://{self.socket}", timeout=CALL_SECONDS)

    def facts(self) -> EngineFacts:
        """Return which limits and devices this daemon can give, and where logs go."""
        with self._asked():
            info = self._api.info()
        can = {"memory": info.get("MemoryLimit"), "pids": info.get("PidsLimit")}
        return EngineFacts(
            frozenset(name for name, there in can.items() if there),
            rootless="name=rootless" in (info.get("SecurityOptions") or ()),
            cdi=bool(info.get("CDISpecDirs")),
            log_driver=info.get("LoggingDriver") or "",
            spares=bool(info.get("LiveRestoreEnabled")),
        )

    def find(self, owner: Owner) -> list[Seen]:
        """Return the hive's containers."""
        with self._asked():
            found = self._api.containers(all=True, filters={"label": [f"rbee.hive={owner.hive}"]})
        return [Seen(each["Id"], each.get("Labels") or {}, each["State"]) for each in found]

    def inspect(self, container: str) -> Mapping[str, Any] | None:
        """Return what `docker inspect` says."""
        with self._asked():
            try:
                found: Mapping[str, Any] = self._api.inspect_container(container)
            except docker.errors.NotFound:
                return None
            return found

    def has_image(self, image: str) -> bool:
        """Say whether an image is on this host."""
        with self._asked():
            try:
                self._api.inspect_image(image)
            except docker.errors.NotFound:
                return False
            return True

    def advice(self, image: str) -> str:
        """Return how an image comes here."""
        return f"image {image} is not on this host: run `docker pull {image}` there, or `docker load -i FILE`"

    def network(self, network: str, callers: tuple[str, ...]) -> Network | None:  # noqa: ARG002 - as below
        """Return a network and what of it is not as `make_network` makes it."""
        with self._asked():
            # Docker looks for names that contain this one.
            found = next((each for each in self._api.networks(names=[network]) if each["Name"] == network), None)
            if found is None:
                return None
            inside = self._api.containers(all=True, filters={"network": found["Id"]})
        return described(found, tuple(name.removeprefix("/") for each in inside for name in each["Names"]))

    def make_network(self, network: str, labels: Mapping[str, str], callers: tuple[str, ...]) -> None:  # noqa: ARG002
        """Make a network whose addresses nobody translates on their way out, so that no answer finds back to them.

        Callers need no route of their own here: answers to them go through the published port.
        """
        with self._asked():
            self._api.create_network(network, driver="bridge", options=_closed(network), labels=dict(labels))

    def remove_network(self, network: str) -> None:
        """Remove a network; Docker refuses that for one that a running container uses."""
        with self._asked():
            self._api.remove_network(network)

    def run(self, planned: ContainerPlan, facts: EngineFacts) -> None:
        """Make and start a container."""
        with self._asked():
            host = self._api.create_host_config(**host_arguments(planned, facts))
            made = self._api.create_container(planned.image, host_config=host, **arguments(planned, facts))
            self._api.start(made["Id"])

    def ask_stop(self, container: str, seconds: int) -> None:
        """Ask for a stop and hang up."""
        with self._asked():
            try:
                answer = self._api.post(
                    self._api._url("/containers/{0}/stop", container),  # noqa: SLF001 - its method waits for the end
                    params={"t": seconds},
                    timeout=ASK_SECONDS,
                )
            except requests.exceptions.ReadTimeout:
                return
            if answer.status_code not in {304, 404}:
                self._api._raise_for_status(answer)  # noqa: SLF001 - the one that reads what the engine says

    def remind(self, container: str) -> None:
        """Send SIGTERM; 409 is a container that has ended."""
        with self._asked():
            try:
                self._api.kill(container, "SIGTERM")
            except docker.errors.APIError as error:
                if error.status_code not in {404, 409}:
                    raise

    def remove(self, container: str) -> None:
        """Remove a container."""
        with self._asked():
            try:
                self._api.remove_container(container, v=True)
            except docker.errors.NotFound:
                return

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            raise LauncherError(_sentence(error, self.socket)) from error


def arguments(planned: ContainerPlan, facts: EngineFacts) -> dict[str, Any]:
    """Return the part of a plan that the SDK takes when it makes a container."""
    # Root inside a daemon without root is the very user that the daemon runs as.
    user = "0:0" if facts.rootless else f"{planned.uid}:{planned.gid}"
    return {
        "name": planned.name,
        "labels": dict(planned.labels),
        "entrypoint": [planned.program],
        "command": list(planned.arguments),
        "environment": dict(planned.environment),
        "user": user,
        "ports": [(planned.port, "tcp")],
        "stop_timeout": planned.stop_seconds,
        # The hive asks its workers itself; the image's own check would start a program every half minute as well.
        "healthcheck": {"Test": ["NONE"]},
    }


def host_arguments(planned: ContainerPlan, facts: EngineFacts) -> dict[str, Any]:
    """Return the part of a plan that is about the host."""
    published = (planned.address, planned.port) if planned.address else planned.port
    logs = None if facts.log_driver in BOUNDED_LOGS else {"type": "json-file", "config": {"max-size": LOG_SIZE}}
    return {
        "mounts": [
            docker.types.Mount(str(target), str(source), type="bind", read_only=True)
            for source, target in planned.mounts.items()
        ],
        "tmpfs": {target: f"size={size},mode=1777" for target, size in planned.tmpfs.items()},
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "group_add": [] if facts.rootless else [str(group) for group in planned.groups],
        "device_requests": requests_of(planned.devices, facts),
        "devices": [f"{node}:{node}:rwm" for node in planned.nodes],
        "network_mode": planned.network,
        "dns": [NO_RESOLVER],
        "port_bindings": {f"{planned.port}/tcp": published},
        "ipc_mode": "private",
        "mem_limit": planned.memory,
        "pids_limit": planned.pids,
        "restart_policy": {"Name": "no"},
        "log_config": logs,
    }


def described(found: Mapping[str, Any], users: tuple[str, ...]) -> Network:
    """Return what Docker says of a network; callers need no routes in it."""
    options = found.get("Options") or {}
    wrong = differing(KIND, found) + differing(_closed(found["Name"]), options)
    return Network(found.get("Labels") or {}, wrong, users=users)


def _closed(network: str) -> dict[str, str]:
    """Return the options of a network; the host's rules know it by its bridge."""
    return {**CLOSED, f"{_BRIDGE}.name": bridge_of(network)}


def requests_of(devices: tuple[str, ...], facts: EngineFacts) -> list[Any]:
    """Return the request for CDI devices, or where the daemon knows nothing of CDI that of NVIDIA's own runtime."""
    if not devices:
        return []
    if facts.cdi:
        return [docker.types.DeviceRequest(driver="cdi", device_ids=list(devices))]
    ids = [name.partition("=")[2] for name in devices]
    return [docker.types.DeviceRequest(driver="nvidia", device_ids=ids, capabilities=[["gpu"]])]


def _sentence(error: Exception, socket: Path) -> str:
    said: BaseException | None = error
    while said is not None:
        # The client wraps what the engine says to its first question.
        if isinstance(said, docker.errors.APIError):
            return str(said.explanation or said)
        said = said.__cause__
    return (
        f"docker does not answer at {socket}: run `systemctl start docker` on the host, and see that this user may "
        "open the socket"
    )
