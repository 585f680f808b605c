"""A disk that is full before an engine has all of an image."""

from collections.abc import Iterator

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet
from tests.e2e.test_changes import changes, daemon_pids
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

SMALL = "100m"
"""Less than any image has, and more than an engine needs to start."""

LAYERS = {"podman": "/var/lib/containers/storage", "docker": "/var/lib/docker/overlay2"}
"""Where layers go: below the folders that preflight asks about, so that only the engine meets the end of the disk."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a host of each engine that runs bare and serves."""
    images = lab_images()
    with Lab.create("full") as lab:
        made = Fleet(lab)
        made.options["images"] = str(images)
        for engine in LAYERS:
            machine = lab.add_host(engine, image="containers")
            made.declare(machine, engine=engine, engines=[], queen=engine == "podman")
        made.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "replicas": "each_host"}
        try:
            made.deploy()
            made.wait_ready("echo", 2)
            yield made
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


def test_a_disk_that_fills_up_changes_nothing(fleet: Fleet) -> None:
    """A sentence a host, exit status 1, the same processes serve on, no image stays; with room the same word works.

    A host with a fallback stays bare, which is a warning and no difference.
    """
    hosts = fleet.lab.hosts
    before = {name: daemon_pids(host) for name, host in hosts.items()}
    for name, host in hosts.items():
        shrink(host)
        fleet.hosts[name]["mode"] = "container"
    done = fleet.rbee_deploy("apply")
    assert done.code == 1
    for name, host in hosts.items():
        said = [line for line in done.errors.splitlines() if f"{name} could not load the image localhost/rbee-" in line]
        assert len(said) == 1, done.errors
        assert "make room or put" in said[0]
        assert host.run(f"{name} images --all --quiet; {name} ps --all --quiet").stdout == ""
    assert {name: daemon_pids(host) for name, host in hosts.items()} == before
    fleet.wait_ready("echo", 2)
    assert answer(fleet)
    for name in hosts:
        fleet.hosts[name]["fallback"] = "bare"
    done = fleet.rbee_deploy("apply")
    assert done.code == 0, done.errors
    for name in hosts:
        why = f"it runs bare instead of in containers: {name} could not load the image localhost/rbee-"
        assert why in done.errors
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
