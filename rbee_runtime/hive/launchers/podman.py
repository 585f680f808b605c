"""Podman by its own client, over its socket; see docs/decisions/0007-worker-containers.md for what was found out."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import podman.errors
import requests
from podman.api.client import APIClient
from podman.domain.containers_manager import ContainersManager
from podman.domain.images_manager import ImagesManager
from podman.domain.networks_manager import NetworksManager
from podman.domain.system import SystemManager

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers.containers import ContainerPlan, EngineFacts, Owner, Seen, socket_path
from rbee_runtime.hive.launchers.networks import Network, differing, wide
from rbee_runtime.worker_bridge import bridge_of

CALL_SECONDS = 60.0
ASK_SECONDS = 1.0
"""A stop lasts as long as the drain; the engine goes on with it when we hang up."""

JOURNAL = Path("/run/systemd/journal/socket")
LOG_BYTES = 8 * 1024 * 1024
ROOTFUL = Path("/run/podman/podman.sock")
KIND = {"driver": "bridge", "internal": False, "dns_enabled": False}
CLOSED = {"no_default_route": "true", "isolate": "true"}


def usual_sockets() -> tuple[Path, ...]:
    """Return where the socket is: root's, then that of our own user."""
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    return ROOTFUL, own / "podman/podman.sock"


class Podman:
    """The engine, for one hive."""

    name = "podman"

    def __init__(self, socket: str = "", *, usable: Callable[[Path], bool] | None = None) -> None:
        usable = usable or (lambda path: os.access(path, os.R_OK | os.W_OK))
        self.socket = socket_path(socket, [*filter(usable, usual_sockets()), *usual_sockets()])
        # Not PodmanClient: that looks for settings in a home, which the hive's unit is not let into.
        self._api = APIClient(f"unix://{self.socket}", timeout=CALL_SECONDS)
        self._containers = ContainersManager(client=self._api)
        self._images = ImagesManager(client=self._api)
        self._networks = NetworksManager(client=self._api)

    def facts(self) -> EngineFacts:
        """Return controllers, rootlessness and where logs go."""
        with self._asked():
            host = SystemManager(client=self._api).info()["host"]
        rootless = bool(host.get("security", {}).get("rootless"))
        journald = not rootless and JOURNAL.exists()
        return EngineFacts(
            frozenset(host.get("cgroupControllers") or ()), rootless, log_driver="journald" if journald else "k8s-file"
        )

    def find(self, owner: Owner) -> list[Seen]:
        """Return the hive's containers; the client finds nothing for a list of labels, so it gets the one as text."""
        with self._asked():
            found = self._containers.list(all=True, sparse=True, filters={"label": f"rbee.hive={owner.hive}"})
        return [Seen(each.attrs["Id"], each.attrs.get("Labels") or {}, each.attrs["State"]) for each in found]

    def inspect(self, container: str) -> Mapping[str, Any] | None:
        """Return what `podman inspect` says."""
        with self._asked():
            try:
                found: Mapping[str, Any] = self._containers.get(container).attrs
            except podman.errors.NotFound:
                return None
            return found

    def has_image(self, image: str) -> bool:
        """Say whether an image is on this host."""
        with self._asked():
            return bool(self._images.exists(image))

    def advice(self, image: str) -> str:
        """Return how an image comes here."""
        return f"image {image} is not on this host: run `podman pull {image}` there, or `podman load -i FILE`"

    def network(self, network: str, callers: tuple[str, ...]) -> Network | None:
        """Return a network and what of it is not as `make_network` makes it."""
        with self._asked():
            try:
                found = self._networks.get(network).attrs
            except podman.errors.NotFound:
                return None
            inside = self._containers.list(all=True, sparse=True, filters={"network": network})
        return described(found, callers, tuple(name for each in inside for name in each.attrs["Names"]))

    def make_network(self, network: str, labels: Mapping[str, str], callers: tuple[str, ...]) -> None:
        """Make a network with routes to callers and no other: an internal one would publish no port either."""
        # Closed from the first moment: a hive that dies before the second one leaves no way out.
        closed = {"name": network, **_kind(network), "labels": dict(labels), "options": CLOSED}
        subnet = self._make_network(closed)["subnets"][0]
        self.remove_network(network)
        routes = [{"destination": each, "gateway": subnet["gateway"]} for each in _routed(callers)]
        self._make_network(closed | {"subnets": [subnet], "routes": routes})

    def remove_network(self, network: str) -> None:
        """Remove a network; Podman refuses that for one that a container uses."""
        with self._asked():
            self._networks.get(network).remove()

    def _make_network(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        with self._asked():
            # The client's own method leaves the routes out.
            answer = self._api.post("/networks/create", data=json.dumps(wanted))
            answer.raise_for_status()
            made: dict[str, Any] = answer.json()
            return made

    def run(self, planned: ContainerPlan, facts: EngineFacts) -> None:
        """Make and start a container."""
        with self._asked():
            made = self._containers.create(planned.image, **arguments(planned, facts))
            made.start()

    def ask_stop(self, container: str, seconds: int) -> None:
        """Ask for a stop and hang up."""
        try:
            with self._asked():
                path, params = f"/containers/{container}/stop", {"timeout": seconds}
                answer = self._api.post(path, params=params, timeout=ASK_SECONDS)
                if answer.status_code != 404:
                    answer.raise_for_status()
        except LauncherError as error:
            if not isinstance(_root(error), requests.exceptions.ReadTimeout):
                raise

    def remind(self, container: str) -> None:
        """Send SIGTERM; 409 is a container that has ended."""
        with self._asked():
            answer = self._api.post(f"/containers/{container}/kill", params={"signal": "SIGTERM"})
            if answer.status_code not in {404, 409}:
                answer.raise_for_status()

    def remove(self, container: str) -> None:
        """Remove a container."""
        with self._asked():
            answer = self._api.delete(f"/containers/{container}", params={"v": True, "ignore": True})
            answer.raise_for_status()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (podman.errors.PodmanError, requests.exceptions.RequestException, OSError) as error:
            raise LauncherError(_sentence(error, self.socket)) from error


def arguments(planned: ContainerPlan, facts: EngineFacts) -> dict[str, Any]:
    """Return a plan in the client's words."""
    logs: dict[str, Any] = {"Type": facts.log_driver}
    if facts.log_driver != "journald":
        logs["Config"] = {"size": LOG_BYTES}
    shown = [
        {"type": "bind", "source": str(source), "target": str(target), "read_only": True}
        for source, target in planned.mounts.items()
    ]
    scratch = [
        {"type": "tmpfs", "source": "tmpfs", "target": target, "size": size, "mode": "1777"}
        for target, size in planned.tmpfs.items()
    ]
    # Without root the container's user is ours, with the groups that we have.
    whose = {"userns_mode": "keep-id"} if facts.rootless else {}
    groups = ["keep-groups"] if facts.rootless else [str(group) for group in planned.groups]
    return whose | {
        "name": planned.name,
        "labels": dict(planned.labels),
        "entrypoint": [planned.program],
        "command": list(planned.arguments),
        "environment": dict(planned.environment),
        "user": f"{planned.uid}:{planned.gid}",
        "group_add": groups,
        "read_only": True,
        "read_write_tmpfs": False,
        "no_new_privileges": True,
        "cap_drop": ["all"],
        "mounts": [*shown, *scratch],
        "devices": [*planned.devices, *planned.nodes],
        "network_mode": "bridge",
        "networks": {planned.network: {"static_mac": planned.mac}},
        "ports": {f"{planned.port}/tcp": (planned.address, planned.port) if planned.address else planned.port},
        "ipc_mode": "private",
        "pid_mode": "private",
        "cgroupns": "private",
        "mem_limit": planned.memory,
        "pids_limit": planned.pids,
        "stop_timeout": planned.stop_seconds,
        # The hive asks its workers itself; the image's own check would start a program every half minute as well.
        "healthcheck": {"Test": ["NONE"]},
        "restart_policy": {"Name": "no"},
        "image_volume_mode": "ignore",
        "sdnotifyMode": "ignore",
        "systemd": "false",
        "use_config_proxy": False,
        "log_config": logs,
    }


def described(found: Mapping[str, Any], callers: tuple[str, ...], users: tuple[str, ...]) -> Network:
    """Return what Podman says of a network."""
    wrong = differing(_kind(found["name"]), found) + differing(CLOSED, found.get("options") or {})
    routes, wanted = {each["destination"] for each in found.get("routes") or ()}, set(_routed(callers))
    if wide(routes, wanted):
        wrong = (*wrong, "routes")
    return Network(found.get("labels") or {}, wrong, routes == wanted, users)


def _kind(network: str) -> dict[str, Any]:
    """Return what kind of network it is; the host's rules know it by its bridge."""
    return {**KIND, "network_interface": bridge_of(network)}


def _routed(callers: tuple[str, ...]) -> list[str]:
    return [each for each in callers if ":" not in each]


def _root(error: BaseException) -> BaseException:
    """Return the first cause that is a time-out, or the last cause."""
    while (cause := error.__cause__ or error.__context__) is not None:
        if isinstance(error, requests.exceptions.ReadTimeout):
            return error
        error = cause
    return error


def _sentence(error: Exception, socket: Path) -> str:
    if isinstance(error, podman.errors.APIError) and error.response is not None:
        return str(error.explanation or error)
    return (
        f"podman does not answer at {socket}: run `systemctl start podman.socket` on the host, and see that this user "
        "may open the socket"
    )
