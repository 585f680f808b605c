"""A firewall of the inventory on hosts with a Podman without root: who gets to queen, hive and workers there."""

from collections.abc import Callable, Iterator

import pytest

from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.test_firewall import CLIENTS, HIVE, LINK, SSH, _firewalld, _ufw, tried
from tests.e2e.test_rootless_hosts import ROOTLESS, inspect, names
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab


OTHERS = [("ufw", _ufw, "ufw --force disable"), ("firewalld", _firewalld, "systemctl disable --now firewalld")]
"""How to have each on, and off again."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a queen and a hive without root, each with a firewall, and a stranger to the fleet."""
    images = lab_images()
    with Lab.create("rootlessguard") as lab:
        made = Fleet(lab)
        made.options |= {"images": str(images), "clients": [lab.gateway]}
        firewall = {**ROOTLESS, "firewall": "nftables", "engines": []}
        made.declare(lab.add_host("box", image="containers"), queen=True, hive=False, **firewall)
        made.declare(lab.add_host("gpu", image="containers", online=True), **firewall)
        lab.add_host("stranger")
        made.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "replicas": "each_host"}
        try:
            made.deploy()
            yield made
        finally:
            made.close()


def worker_port(host: LabHost) -> int:
    """Return the published port of the host's worker."""
    wait_for("its worker", lambda: names(host, "rbee-worker-"))
    (name,) = names(host, "rbee-worker-")
    (port,) = inspect(host, name)["HostConfig"]["PortBindings"]
    return int(port.partition("/")[0])


def serves(fleet: Fleet) -> None:
    """Have the worker answer through the queen."""
    fleet.wait_ready("echo")
    answer = fleet.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content


def test_a_queen_is_for_her_hives_and_clients(fleet: Fleet) -> None:
    """Her container's ports are closed to a stranger, and to each other host but for what it needs."""
    box, gpu, stranger = (fleet.lab.hosts[name] for name in ("box", "gpu", "stranger"))
    serves(fleet)
    assert "rbee-queen" in names(box)
    assert tried(gpu, box.address, LINK, CLIENTS) == {LINK: "open", CLIENTS: "closed"}
    assert tried(stranger, box.address, SSH, LINK, CLIENTS) == {SSH: "open", LINK: "closed", CLIENTS: "closed"}


def guarded(fleet: Fleet, kind: str, prepare: Callable[[LabHost], None]) -> None:
    """Give the hive's host a kind of firewall: the queen gets to hive and worker, a stranger does not."""
    box, gpu, stranger = (fleet.lab.hosts[name] for name in ("box", "gpu", "stranger"))
    serves(fleet)
    port = worker_port(gpu)
    assert "rootlessport" in gpu.run(f"ss -Hltnp 'sport = {port}'").stdout
    # Without rules the stranger gets in.
    del fleet.hosts["gpu"]["firewall"]
    fleet.deploy()
    assert tried(stranger, gpu.address, HIVE, port) == {HIVE: "open", port: "open"}
    prepare(gpu)
    fleet.hosts["gpu"]["firewall"] = kind
    fleet.deploy()
    assert tried(box, gpu.address, HIVE, port) == {HIVE: "open", port: "open"}
    assert tried(stranger, gpu.address, SSH, HIVE, port) == {SSH: "open", HIVE: "closed", port: "closed"}
    serves(fleet)
    checked = fleet.rbee_deploy("check")
    assert checked.code == 0, checked.errors


@pytest.mark.full
def test_a_hive_and_its_workers_are_for_the_queen(fleet: Fleet) -> None:
    """What is published without root is input of the host, which a table of our own guards."""
    guarded(fleet, "nftables", lambda _host: None)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "prepare", "off"), OTHERS)
def test_other_firewalls_guard_them_too(fleet: Fleet, kind: str, prepare: Callable[[LabHost], None], off: str) -> None:
    """Those guard input, and so what is published there."""
    try:
        guarded(fleet, kind, prepare)
    finally:
        # Its rules go while it is there.
        fleet.hosts["gpu"].pop("firewall", None)
        fleet.deploy()
        fleet.lab.hosts["gpu"].run(off)
        fleet.hosts["gpu"]["firewall"] = "nftables"
        fleet.deploy()
