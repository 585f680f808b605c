"""Hosts that pull their images from a real registry, which wants credentials and has a certificate of its own."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator.engines import ROOTLESS, in_shell
from rbee_deploy.images import manifest
from tests.e2e.fleets import Fleet
from tests.e2e.registries import auth, pushed, trust
from tests.e2e.test_changes import changes
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

WAYS: dict[str, dict[str, Any]] = {
    "podman": {"mode": "container", "engine": "podman", "queen": True},
    "docker": {"mode": "container", "engine": "docker"},
    "rootless": {"mode": "container", "engine": "podman", "rootless": True},
}
"""What the inventory says of each host, by its name."""

LEFT = "ls /run/tmp.* /root/.docker /run/containers/0/auth.json /run/user/*/containers/auth.json"
"""Where credentials could stay; the last are those of the engine's user."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Give a registry with images that were pushed by the product, and a host of each engine that has none yet."""
    with Lab.create("registry") as lab:
        made = Fleet(lab)
        registry = pushed(made, tmp_path_factory.mktemp("images"))
        for name, way in WAYS.items():
            machine = lab.add_host(name, image="containers")
            made.declare(machine, **way)
            trust(made, machine, registry)
        made.models["slow"] = {"name": "slow", "source": "fake:tokens=3", "replicas": "each_host"}
        try:
            yield made
        finally:
            made.close()


def engine_says(fleet: Fleet, name: str, words: str) -> str:
    """Return what the engine of a host says, nothing of one whose user is not there."""
    command = name
    if name == "rootless":
        command = f"getent passwd rbee-engine >/dev/null || exit 0; {in_shell(ROOTLESS)}"
    return fleet.lab.hosts[name].run(f"{command} {words}").stdout


def listed(fleet: Fleet) -> manifest.Images:
    return manifest.read(Path(fleet.options["images"]))


def write(fleet: Fleet, name: str, **fields: str) -> None:
    """Give the fleet a list of images in which every entry has other fields."""
    known = manifest.read(Path(fleet.options["images"]).parent / "pulled")
    folder = known.folder.parent / name
    folder.mkdir(exist_ok=True)
    (folder / manifest.NAME).write_text(
        manifest.text(dataclasses.replace(image, **fields) for image in known.images)  # type: ignore[arg-type]
    )
    fleet.options["images"] = str(folder)


FAILURES = {
    "wrong password": "wants other credentials: give it registry_auth=… in fleet()",
    "no such digest": "has no such image: push it there again",
    "a registry that is down": "does not answer: look at the network, or name a mirror",
}


@pytest.mark.one_of
@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_is_a_sentence_and_leaves_the_host(fleet: Fleet, what: str) -> None:
    """Every host says which registry, which image and what to do, and nothing of rbee runs on it."""
    bring_back(fleet)
    registry = listed(fleet).images[0].repository.partition("/")[0]
    good, images = fleet.environment["REGISTRY_AUTH"], fleet.options["images"]
    if what == "wrong password":
        fleet.environment["REGISTRY_AUTH"] = auth(registry, "another")
    elif what == "no such digest":
        write(fleet, "no-such", digest=f"sha256:{'0' * 64}")
    else:
        fleet.lab.hosts["registry"].run("systemctl stop docker-registry")
    try:
        done = fleet.deploy(check=False)
    finally:
        fleet.environment["REGISTRY_AUTH"], fleet.options["images"] = good, images
        fleet.lab.hosts["registry"].run("systemctl start docker-registry")
    assert done.code != 0
    assert f"the registry of {registry}/lab/rbee-" in done.errors
    for name in WAYS:
        active = fleet.lab.hosts[name].run("systemctl is-active rbee-hive", check=False).stdout
        assert (name, active.strip(), engine_says(fleet, name, "ps --all --quiet")) == (name, "inactive", "")
        assert [line for line in done.errors.splitlines() if name in line and FAILURES[what] in line], done.errors


def bring_back(fleet: Fleet) -> None:
    """Have no host anything of rbee: a purge leaves neither images nor what Podman was given of secrets."""
    for name in WAYS:
        host = fleet.lab.hosts[name]
        if host.run("ls -d /opt/rbee", check=False).stdout:
            serves = host.run("systemctl is-active rbee-hive", check=False).stdout.strip() == "active"
            assert bool(secrets_at_podman(host)) is (serves and name == "podman")
            assert fleet.rbee_deploy("purge", name, "--yes").code == 0
        assert engine_says(fleet, name, "images --quiet") == ""
        assert secrets_at_podman(host) == []


def secrets_at_podman(host: LabHost) -> list[str]:
    """Return the names of what Podman holds in secret, which only the containers of queen and hive get from it."""
    return host.run("podman secret ls --format '{{.Name}}'").stdout.split()


def test_hosts_pull_by_digest_and_serve(fleet: Fleet) -> None:
    """No image is uploaded, the credentials are nowhere afterwards, and a second run changes nothing."""
    bring_back(fleet)
    fleet.deploy()
    fleet.wait_ready("slow", len(WAYS))
    assert fleet.client().chat.completions.create(model="slow", messages=[{"role": "user", "content": "hi"}]).choices
    for name, way in WAYS.items():
        wanted = {image.id for image in listed(fleet).images if way.get("queen") or "queen" not in image.name}
        assert wanted <= set(engine_says(fleet, name, "images --quiet --no-trunc").split())
        tags = engine_says(fleet, name, "images --format '{{.Repository}}:{{.Tag}}'").split()
        assert {image.tag for image in listed(fleet).images if image.id in wanted} <= set(tags)
        assert fleet.lab.hosts[name].run(LEFT, check=False).stdout == ""
    assert changes(fleet.deploy("--json")) == {}


@pytest.mark.full
def test_a_mirror_is_asked_first(fleet: Fleet) -> None:
    """With a mirror, images come although the registry that they were pushed to does not answer."""
    registry = listed(fleet).images[0].repository.partition("/")[0]
    bring_back(fleet)
    before = dict(fleet.options)
    known = listed(fleet).images
    folder = Path(fleet.options["images"]).parent / "away"
    folder.mkdir()
    away = [
        manifest.Image(**{**image.__dict__, "repository": f"192.0.2.9:5000/lab/rbee-{image.name}"}) for image in known
    ]
    (folder / manifest.NAME).write_text(manifest.text(away))
    fleet.options |= {"images": str(folder), "image_mirrors": [registry]}
    fleet.deploy()
    fleet.wait_ready("slow", len(WAYS))
    fleet.options = before
