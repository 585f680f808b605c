"""A firewall of the inventory on hosts whose workers are containers: what engines publish is for the queen alone."""

from collections.abc import Iterator

import pytest

from rbee_runtime.worker_bridge import NETWORK
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, small_fleet, wait_for
from tests.e2e.test_container_hosts import inspect, names
from tests.e2e.test_firewall import HIVE, SSH, tried
from tests.lab import LabHost

pytestmark = pytest.mark.lab

ENGINES = ("podman", "docker")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a queen, a Podman and a Docker host with nftables and a worker each, and a stranger to the fleet."""
    with small_fleet("guarded", gpu_hosts=0, images=str(lab_images())) as made:
        for engine in ENGINES:
            host = made.lab.add_host(engine, image="containers")
            made.declare(host, worker_runtime="container", engine=engine, engines=[], firewall="nftables")
        made.lab.add_host("stranger")
        made.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "replicas": "each_host"}
        made.deploy()
        made.wait_ready("echo", len(ENGINES))
        yield made


def worker(fleet: Fleet, engine: str) -> tuple[int, str]:
    """Return the published port of a host's worker, and the address of its container."""
    host = fleet.lab.hosts[engine]
    wait_for("its worker", lambda: names(host, engine, "rbee-worker-"))
    (name,) = names(host, engine, "rbee-worker-")
    found = inspect(host, engine, name)
    (port,) = found["HostConfig"]["PortBindings"]
    return int(port.partition("/")[0]), found["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]


def closed(fleet: Fleet, engine: str) -> None:
    """Check that the queen gets to a host's worker and a stranger does not, by the host or by a route past it."""
    queen, stranger, host = (fleet.lab.hosts[name] for name in ("queen", "stranger", engine))
    port, inside = worker(fleet, engine)
    assert tried(queen, host.address, HIVE, port) == {HIVE: "open", port: "open"}
    assert tried(stranger, host.address, SSH, HIVE, port) == {SSH: "open", HIVE: "closed", port: "closed"}
    with_route(stranger, inside, host)
    assert tried(stranger, inside, port) == {port: "closed"}
    assert tried(host, host.address, port) == {port: "open"}


def with_route(source: LabHost, address: str, by: LabHost) -> None:
    """Have a host send what is for an address to another one, as somebody on the same network may."""
    source.run(f"ip route replace {address}/32 via {by.address}")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_published_is_for_the_queen(fleet: Fleet, engine: str) -> None:
    """A stranger gets to no worker, be it through the published port or by a route to its container; requests do."""
    closed(fleet, engine)
    fleet.wait_ready("echo", len(ENGINES))
    client = fleet.client()
    for _ in range(4):
        answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_that_is_lost_opens_it_until_the_next_run(fleet: Fleet, engine: str) -> None:
    """Without the table the engine lets everybody in; the check says that it is lost, and apply closes it again."""
    host, stranger = fleet.lab.hosts[engine], fleet.lab.hosts["stranger"]
    port, _ = worker(fleet, engine)
    host.run("nft delete table inet rbee")
    assert tried(stranger, host.address, port) == {port: "open"}
    found = fleet.rbee_deploy("check")
    assert found.code == 2
    assert "table inet rbee is not in force" in found.errors
    assert fleet.rbee_deploy("apply").code == 0
    closed(fleet, engine)


ANEW = {"podman": "podman network reload --all", "docker": "systemctl restart docker"}


@pytest.mark.one_of
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_makes_its_rules_anew_opens_nothing(fleet: Fleet, engine: str) -> None:
    """Its own chains come and go, and the ports of workers stay closed to strangers."""
    fleet.lab.hosts[engine].run(ANEW[engine])
    fleet.wait_ready("echo", len(ENGINES))
    closed(fleet, engine)
