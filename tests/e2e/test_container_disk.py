"""A disk that is full before an engine has all of an image."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet
from tests.e2e.registries import pushed, trust
from tests.e2e.test_changes import changes, daemon_pids
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

SMALL = "100m"
"""Less than any image has, and more than an engine needs to start."""

LAYERS = {"podman": "/var/lib/containers/storage", "docker": "/var/lib/docker/overlay2"}
"""Where layers go: below the folders that preflight asks about, so that only the engine meets the end of the disk."""


@dataclass
class Deployed:
    """A host of each engine that runs bare and serves, and what is said where an image does not fit."""

    fleet: Fleet
    sentence: str
    """With the engine's name to put in."""

    what_to_do: str

    def says(self, engine: str) -> str:
        """Return how the sentence about the images of an engine's host begins."""
        return self.sentence.format(engine=engine)


@pytest.fixture(scope="module", params=["loading", "pulling"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Give hosts that are sent their images, or pull them from a registry."""
    with Lab.create("full") as lab:
        made = Fleet(lab)
        if request.param == "loading":
            made.options["images"] = str(lab_images())
            found = Deployed(made, "{engine} could not load the image localhost/rbee-", "make room or put")
        else:
            registry = pushed(made, tmp_path_factory.mktemp("images"))
            said = f"the registry of {registry}/lab/rbee-"
            found = Deployed(made, said, "sent more than the disk holds: make room where the engine keeps images")
        for engine in LAYERS:
            machine = lab.add_host(engine, image="containers")
            if request.param == "pulling":
                trust(made, machine, registry)
            made.declare(machine, engine=engine, engines=[], queen=engine == "podman")
        made.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "replicas": "each_host"}
        try:
            made.deploy()
            made.wait_ready("echo", 2)
            yield found
        finally:
            made.close()


def shrink(host: LabHost) -> None:
    """Give the engine of a host a disk that is too small for an image; it is the host's own, in memory."""
    place = LAYERS[host.name]
    mount = f"mkdir -p {place} && mount -t tmpfs -o size={SMALL},mode=0700 tmpfs {place}"
    if host.name == "docker":
        host.run(f"systemctl stop docker.socket docker.service && {mount} && systemctl start docker.service")
    else:
        host.run(mount)


def widen(host: LabHost) -> None:
    """Take the small disk away."""
    place = LAYERS[host.name]
    if host.name == "docker":
        host.run(f"systemctl stop docker.socket docker.service; umount {place}; systemctl start docker.service")
    else:
        host.run(f"umount --lazy {place}/overlay 2>/dev/null; umount {place}")


def answer(fleet: Fleet) -> str:
    """Return what the model says."""
    asked = fleet.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    return asked.choices[0].message.content or ""


@pytest.mark.full
def test_a_disk_that_fills_up_changes_nothing(deployed: Deployed) -> None:
    """A sentence a host, exit status 1, the same processes serve on, no image stays; with room the same word works.

    A host with a fallback stays bare, which is a warning and no difference.
    """
    fleet = deployed.fleet
    hosts = {name: fleet.lab.hosts[name] for name in LAYERS}
    before = {name: daemon_pids(host) for name, host in hosts.items()}
    for name, host in hosts.items():
        shrink(host)
        fleet.hosts[name]["mode"] = "container"
    done = fleet.rbee_deploy("apply")
    assert done.code == 1
    for name, host in hosts.items():
        said = [line for line in done.errors.splitlines() if name in line and deployed.says(name) in line]
        assert len(said) == 1, done.errors
        assert deployed.what_to_do in said[0]
        assert host.run(f"{name} images --all --quiet; {name} ps --all --quiet").stdout == ""
    assert {name: daemon_pids(host) for name, host in hosts.items()} == before
    fleet.wait_ready("echo", 2)
    assert answer(fleet)
    for name in hosts:
        fleet.hosts[name]["fallback"] = "bare"
    done = fleet.rbee_deploy("apply")
    assert done.code == 0, done.errors
    for name in hosts:
        assert f"it runs bare instead of in containers: {deployed.says(name)}" in done.errors
    assert {name: daemon_pids(host) for name, host in hosts.items()} == before
    assert fleet.rbee_deploy("check").code == 0
    for host in hosts.values():
        widen(host)
    fleet.deploy()
    fleet.wait_ready("echo", 2)
    assert answer(fleet)
    for name, host in hosts.items():
        assert "rbee-hive" in host.run(f"{name} ps --format '{{{{.Names}}}}'").stdout
    assert changes(fleet.deploy("--json")) == {}
