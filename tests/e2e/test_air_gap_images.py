"""A host in containers without a network: its images come out of the bundle, and from nowhere else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_deploy.bundle.folder import read
from rbee_deploy.bundle.manifest import Kind
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet
from tests.e2e.test_changes import changes
from tests.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.full]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give one host, queen and hive, that is to run in containers."""
    images = lab_images()
    with Lab.create("airbox") as lab:
        made = Fleet(lab)
        made.options["images"] = str(images)
        made.declare(lab.add_host("box", image="containers"), queen=True, mode="container", engines=[])
        made.models["echo"] = {"name": "echo", "source": "fake:tokens=3"}
        try:
            yield made
        finally:
            made.close()


def test_images_come_out_of_a_bundle(fleet: Fleet, tmp_path: Path) -> None:
    """The folder of images is not on the other side, the host serves from them, and a second run changes nothing."""
    bundle = tmp_path / "bundle"
    made = fleet.rbee_deploy("bundle", "-o", str(bundle), "--from-hosts")
    assert made.code == 0, made.errors
    names = [entry.path for entry in read(bundle).manifest.of_kind(Kind.IMAGE)]
    assert len([name for name in names if name != "images/images.json"]) == 3
    fleet.options["images"] = str(tmp_path / "not-carried-over")
    fleet.environment.update(XDG_CACHE_HOME=str(tmp_path / "no-cache"), PIP_NO_INDEX="1", HOME=str(tmp_path))
    refused = fleet.rbee_deploy("apply")
    assert (refused.code, "make one with `rbee-deploy images" in refused.errors) == (1, True)
    done = fleet.rbee_deploy("apply", "--bundle", str(bundle))
    assert done.code == 0, done.errors
    fleet.wait_ready("echo")
    asked = fleet.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert asked.choices[0].message.content
    assert changes(fleet.rbee_deploy("apply", "--bundle", str(bundle), "--json")) == {}
