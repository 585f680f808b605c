"""What `rbee-deploy export` writes runs on the substrates that it is for, up to an answer of a real model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from rbee_deploy.exports.write import Substrate
from rbee_deploy.images import manifest
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

EXPORTS, IMAGES, MODELS = "/srv/exports", "/srv/images", "/srv/models"
LOAD_SECONDS, START_SECONDS = 300.0, 180.0
QUESTION = "Name three colours, please."


@dataclass
class World:
    """A machine with an engine of containers, and the fleet of an inventory in which it is the only host."""

    fleet: Fleet
    machine: LabHost
    exports: Path

    def export(self, substrate: Substrate) -> str:
        """Export the fleet with its secrets, and return the folder as the machine sees it."""
        folder = self.exports / substrate
        done = self.fleet.rbee_deploy("export", substrate, "-o", str(folder), "--secrets")
        assert done.code == 0, done.errors
        return f"{EXPORTS}/{substrate}"

    def do(self, *lines: str, seconds: float = START_SECONDS) -> str:
        """Run lines of a shell on the machine, one after the other, and return what they print."""
        return self.machine.run("\n".join(("set -e", *lines)), timeout=seconds).stdout

    def answer(self) -> str:
        """Return what the model says once it says something, through the certificate of the export."""
        return str(wait_for("an answer", self._said, seconds=START_SECONDS, every=1.0))

    def _said(self) -> str:
        try:
            asked = self.fleet.client().chat.completions.create(
                model="smol", messages=[{"role": "user", "content": QUESTION}], max_tokens=12, temperature=0
            )
        except openai.OpenAIError:
            return ""
        return asked.choices[0].message.content or ""


@contextmanager
def world_of(engine: str, smol_model: Path, exports: Path) -> Iterator[World]:
    """Give a machine with the images of this checkout loaded into one engine."""
    images = lab_images()
    with Lab.create(f"exports-{engine}") as lab:
        binds = [(images, IMAGES, True), (smol_model.parent, MODELS, True), (exports, EXPORTS, False)]
        machine = lab.add_host("box", image="containers", binds=binds)
        # The server of names that Podman starts for a network wants to know whom to ask what it does not know itself.
        machine.put("nameserver 192.0.2.53\n", "/etc/resolv.conf")
        fleet = Fleet(lab)
        del fleet.options["client_endpoint"]
        fleet.declare(machine, queen=True)
        source = f"file:{MODELS}/{smol_model.name}"
        fleet.models["smol"] = {"name": "smol", "source": source, "preseed": False, "context": 2048}
        made = World(fleet, machine, exports)
        for image in manifest.read(images).images:
            made.do(f"{engine} load --quiet --input {IMAGES}/{image.archive}", seconds=LOAD_SECONDS)
        try:
            yield made
        finally:
            fleet.close()


# Each engine has a machine of its own: where Docker runs, its firewall drops what goes between two pods of Podman.


@pytest.fixture(scope="module")
def podman(smol_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of("podman", smol_model, tmp_path_factory.mktemp("exports")) as made:
        yield made


@pytest.fixture(scope="module")
def docker(smol_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of("docker", smol_model, tmp_path_factory.mktemp("exports")) as made:
        yield made


def test_podman_plays_the_manifests_of_kubernetes(podman: World) -> None:
    """What Podman knows of them runs as it stands: deployments, settings, volumes, and secrets by their names."""
    folder = podman.export(Substrate.KUBERNETES)
    podman.do(
        f"cd {folder}",
        # Hosts of the lab have no controller of memory, and Podman wants one for what a pod asks for.
        "sed -i '/^ *memory: /d' *.yaml",
        "podman network create rbee",
        "podman kube play secrets/secrets.yaml",
        "podman kube play --network rbee:alias=rbee-queen,alias=rbee-queen-link --publish 8500:8500 queen.yaml",
        "podman kube play --network rbee:alias=rbee-hive-box hive-box.yaml",
    )
    assert podman.answer()
    podman.do(
        f"cd {folder}",
        "podman kube down --force hive-box.yaml",
        "podman kube down --force queen.yaml",
        "podman volume rm --all",
        "podman secret rm --all",
        "podman network rm rbee",
    )


def test_a_pod_starts_by_quadlet(podman: World) -> None:
    """The pod with queen and hive is a unit of systemd, and a restart of it serves again from its volumes."""
    folder = podman.export(Substrate.POD)
    podman.do(
        f"podman kube play {folder}/secrets/secrets.yaml",
        "mkdir -p /etc/containers/systemd",
        f"cp {folder}/rbee* /etc/containers/systemd",
        "systemctl daemon-reload",
        "systemctl start rbee",
    )
    before = podman.answer()
    podman.do("systemctl restart rbee")
    assert podman.answer() == before
    volumes = podman.do("podman volume ls --quiet").split()
    assert {"rbee-queen-state", "rbee-hive-box-state", "rbee-hive-box-models"} <= set(volumes)
    podman.do("systemctl stop rbee", "rm /etc/containers/systemd/rbee*", "systemctl daemon-reload")
    podman.do("podman volume rm --all", "podman secret rm --all", "podman network rm --force rbee")


def test_compose_runs_the_project(docker: World) -> None:
    """Docker's own Compose takes the project, and a hive that is restarted serves again."""
    folder = docker.export(Substrate.COMPOSE)
    docker.do(
        f"cd {folder}",
        "chown -R 65532:65532 secrets/*",
        "docker compose config --quiet",
        "docker compose up --detach",
    )
    before = docker.answer()
    docker.do(f"cd {folder}", "docker compose restart rbee-hive-box")
    assert docker.answer() == before
    shown = docker.do(f"cd {folder}", "docker compose ps --format '{{.Service}} {{.Ports}}'").splitlines()
    assert sorted(line.split()[0] for line in shown) == ["rbee-hive-box", "rbee-queen"]
    docker.do(f"cd {folder}", "docker compose down --volumes")
