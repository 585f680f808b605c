"""Hosts that containers of rbee do not run on."""

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet
from tests.lab import Lab

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    "way", [{"mode": "container"}, {"worker_runtime": "container"}], ids=["queen and hive", "workers"]
)
def test_an_engine_that_is_too_old_is_a_sentence(way: dict[str, str]) -> None:
    """Debian 12 has Podman 4.3 and nothing newer: the host is refused before setup, and nothing of rbee comes to it."""
    with Lab.create("old") as lab:
        fleet = Fleet(lab)
        fleet.options["images"] = str(lab_images())
        fleet.declare(lab.add_host("box", image="bookworm"), queen=True, **way)
        done = fleet.deploy(check=False)
        (word,) = way
        out = "mode='bare'" if word == "mode" else "worker_runtime='process'"
        assert done.code == 1
        assert f"it has no Podman 4.4 or newer; install Podman 4.4 or newer there, or write {out}" in done.errors
        assert lab.hosts["box"].run("ls -d /opt/rbee /etc/rbee", check=False).stdout == ""
        fleet.close()
