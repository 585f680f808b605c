"""A host in containers that loses its engine, and serves on bare because it has a fallback."""

from typing import Any

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
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
    """Return the control groups of the processes of each of our users, but for those that others gave its number."""
    said = host.run("ps -ewwo user:32=,comm=,cgroup=").stdout
    rows = [line.split(maxsplit=2) for line in said.splitlines()]
    return {user: {row[2] for row in rows if row[0] == user and row[1] != "sleep" and len(row) > 2} for user in USERS}


def are_units(host: LabHost) -> bool:
    """Say whether every process of ours is one of its unit, and none is missing."""
    return all(found and all(f"/{user}" in group for group in found) for user, found in groups(host).items())


def others(host: LabHost, program: str) -> set[str]:
    """Begin a service and a container of others, each with the number of a user of ours; return their processes."""
    host.run("systemd-run --uid=rbee-worker --unit=others sleep infinity")
    image = "--entrypoint=sleep $(docker images --quiet | head -n 1)" if program == "docker" else "--rootfs /:O sleep"
    host.run(f"{program} run --detach --name=others --network=none --user=$(id -u rbee-hive) {image} infinity")
    found = wait_for("both", lambda: pids if len(pids := sleeping(host)) == 2 else None)
    assert isinstance(found, set)
    return found


def sleeping(host: LabHost) -> set[str]:
    """Return the processes that do nothing as one of our users."""
    return set(host.run("pgrep -u rbee-hive,rbee-worker -x sleep", check=False).stdout.split())


def answers(fleet: Fleet) -> None:
    """Have the worker answer."""
    fleet.wait_ready("echo")
    asked = fleet.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert asked.choices[0].message.content


@pytest.mark.one_of
@pytest.mark.parametrize("way", ENGINES)
def test_a_host_that_lost_its_engine_runs_bare_until_it_is_back(way: str) -> None:
    """Queen, hive and worker serve as processes by the same command, which warns; of containers only others' run on."""
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
            foreign = others(box, program)
            box.run(f"mv /usr/bin/{program} /usr/bin/{program}.away")
            box.put(REFUSING, f"/usr/bin/{program}", mode=0o755)
            lost = fleet.rbee_deploy("apply")
            assert lost.code == 0, lost.errors
            assert f"{program} does not answer: what the engine of containers ran here is ended without" in lost.errors
            assert "it runs bare instead of in containers" in lost.errors
            answers(fleet)
            assert are_units(box), groups(box)
            assert sleeping(box) == foreign
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
