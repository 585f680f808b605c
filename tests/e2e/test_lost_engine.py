"""A host in containers that loses its engine, and serves on bare because it has a fallback."""

from typing import Any

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet
from tests.e2e.test_rootless_hosts import ROOTLESS
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

ENGINES: dict[str, dict[str, Any]] = {
    "podman": {"mode": "container"},
    "rootless": ROOTLESS,
    "docker": {"mode": "container", "engine": "docker"},
}
REFUSING = "#!/bin/sh\necho 'it is broken' >&2\nexit 125\n"
USERS = ("rbee-queen", "rbee-hive", "rbee-worker")


def groups(host: LabHost) -> dict[str, set[str]]:
    """Return the control groups of the processes of each of our users."""
    said = host.run("ps -ewwo user:32=,cgroup=").stdout
    rows = [line.split(maxsplit=1) for line in said.splitlines()]
    return {user: {row[1] for row in rows if row[0] == user and len(row) > 1} for user in USERS}


def are_units(host: LabHost) -> bool:
    """Say whether every process of ours is one of its unit, and none is missing."""
    return all(found and all(f"/{user}" in group for group in found) for user, found in groups(host).items())


def answers(fleet: Fleet) -> None:
    """Have the worker answer."""
    fleet.wait_ready("echo")
    asked = fleet.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert asked.choices[0].message.content


@pytest.mark.parametrize("way", ENGINES)
def test_a_host_that_lost_its_engine_runs_bare_until_it_is_back(way: str) -> None:
    """Queen, hive and worker serve as processes by the same command, which warns; nothing of containers runs beside."""
    images = lab_images()
    with Lab.create(f"lost{way}") as lab:
        fleet = Fleet(lab)
        fleet.options["images"] = str(images)
        fleet.declare(lab.add_host("box", image="containers"), queen=True, fallback="bare", engines=[], **ENGINES[way])
        fleet.models["echo"] = {"name": "echo", "source": "fake:tokens=3"}
        box, program = lab.hosts["box"], "docker" if way == "docker" else "podman"
        try:
            fleet.deploy()
            answers(fleet)
            assert not are_units(box)
            box.run(f"mv /usr/bin/{program} /usr/bin/{program}.away")
            box.put(REFUSING, f"/usr/bin/{program}", mode=0o755)
            lost = fleet.rbee_deploy("apply")
            assert lost.code == 0, lost.errors
            assert f"{program} does not answer: what the engine of containers ran here is ended without" in lost.errors
            assert "it runs bare instead of in containers" in lost.errors
            answers(fleet)
            assert are_units(box), groups(box)
            assert fleet.rbee_deploy("check").code == 0
            box.run(f"mv /usr/bin/{program}.away /usr/bin/{program}")
            fleet.deploy()
            answers(fleet)
            assert not are_units(box)
            checked = fleet.rbee_deploy("check")
            assert checked.code == 0, checked.errors
            assert "runs bare" not in checked.errors
        finally:
            fleet.close()
