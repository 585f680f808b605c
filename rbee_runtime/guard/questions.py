"""Calls as they go to the engine, written anew from our own words. Pure."""

import json
from dataclasses import dataclass
from pathlib import Path

from rbee_runtime.guard import docker_words, podman_words
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.engine_socket import ANSWER_SECONDS, Question
from rbee_runtime.guard.worker_container import WorkerContainer
from rbee_runtime.guard.worker_network import WorkerNetwork

LIBPOD = "/v5.8.0/libpod"
"""Docker takes paths without a version for its newest, which its client asks for too; Podman has none without."""


@dataclass(frozen=True)
class Questions:
    """Writes questions for one hive; containers and networks are named by the whole ids that the engine told.

    `labelled` is whether the host has SELinux.
    """

    config: GuardConfig
    account: Account
    labelled: bool = False

    def ping(self) -> Question:
        """Ask whether the engine is there."""
        return Question("GET", "/_ping")

    def version(self) -> Question:
        """Ask for the API's version."""
        return Question("GET", "/version")

    def info(self) -> Question:
        """Ask what the engine can do."""
        return Question("GET", self._path("/info"))

    def image(self, image: str) -> Question:
        """Ask for an image."""
        return Question("GET", self._path(f"/images/{image}/{'exists' if self._podman else 'json'}"))

    def look_at_image(self, image: str) -> Question:
        """Ask for what an image says of itself."""
        return Question("GET", self._path(f"/images/{image}/json"))

    def own_containers(self) -> Question:
        """Ask for the containers of the guard's hive."""
        return self._containers("label", f"rbee.hive={self.config.hive}")

    def users(self, network: str) -> Question:
        """Ask for the containers in a network."""
        return self._containers("network", network)

    def container(self, container: str) -> Question:
        """Ask for a container."""
        return Question("GET", self._path(f"/containers/{container}/json"))

    def create(self, wanted: WorkerContainer, handed: Path) -> Question:
        """Ask for a new container."""
        path = self._path("/containers/create")
        if self._podman:
            made = podman_words.container_body(wanted, self.config, self.account, handed, labelled=self.labelled)
            return Question("POST", path, body=made)
        body = docker_words.container_body(wanted, self.config, self.account, handed)
        return Question("POST", path, (("name", wanted.name),), body)

    def start(self, container: str) -> Question:
        """Ask to start a container."""
        return Question("POST", self._path(f"/containers/{container}/start"))

    def stop(self, container: str, seconds: int) -> Question:
        """Ask to end a container."""
        query = (("timeout" if self._podman else "t", str(seconds)),)
        path = self._path(f"/containers/{container}/stop")
        return Question("POST", path, query, seconds=seconds + ANSWER_SECONDS)

    def terminate(self, container: str) -> Question:
        """Ask to send SIGTERM."""
        return Question("POST", self._path(f"/containers/{container}/kill"), (("signal", "SIGTERM"),))

    def remove(self, container: str) -> Question:
        """Ask to remove a container that has ended, with volumes of its own."""
        query = (("v", "true"),) + ((("ignore", "true"),) if self._podman else ())
        return Question("DELETE", self._path(f"/containers/{container}"), query)

    def log(self, container: str, lines: int, *, follow: bool) -> Question:
        """Ask for a log in the one form that both engines have."""
        query = (("stdout", "true"), ("stderr", "true"), ("tail", str(lines)), ("follow", str(follow).lower()))
        return Question("GET", f"/containers/{container}/logs", query, seconds=None)

    def network(self, network: str) -> Question:
        """Ask for a network."""
        return Question("GET", self._path(f"/networks/{network}"))

    def make_network(self, wanted: WorkerNetwork) -> Question:
        """Ask for a new network."""
        podman = self._podman
        body = podman_words.network_body(wanted, self.config) if podman else docker_words.network_body(self.config)
        return Question("POST", self._path("/networks/create"), body=body)

    def remove_network(self, network: str) -> Question:
        """Ask to remove a network."""
        return Question("DELETE", self._path(f"/networks/{network}"))

    @property
    def _podman(self) -> bool:
        return self.config.engine is EngineKind.PODMAN

    def _path(self, path: str) -> str:
        return (LIBPOD if self._podman else "") + path

    def _containers(self, name: str, value: str) -> Question:
        query = (("all", "true"), ("filters", json.dumps({name: [value]})))
        return Question("GET", self._path("/containers/json"), query)
