"""One deployed fleet for many tests of this folder; each leaves it converged, on either of two releases."""

from collections.abc import Iterator

import pytest

from tests.e2e.fleets import small_fleet
from tests.faults.deploy.trio import MODEL, TOKENS, Trio


@pytest.fixture(scope="session")
def deployed_trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Give a queen and two GPU hosts with a replica of a scripted model on each."""
    with small_fleet("accidents", gpu_hosts=2) as fleet:
        for declared in fleet.hosts.values():
            declared["engines"] = []
        source = f"fake:tokens_per_s=20,slots=64,tokens={TOKENS}"
        fleet.models[MODEL] = {"name": MODEL, "source": source, "slots": 64, "replicas": "each_host"}
        made = Trio(fleet, tmp_path_factory.mktemp("sources"))
        made.converge()
        made.serves()
        yield made


@pytest.fixture
def trio(deployed_trio: Trio, request: pytest.FixtureRequest) -> Iterator[Trio]:
    """Give the fleet as the test before left it; what a failed test left is deployed over."""
    failed = request.session.testsfailed
    yield deployed_trio
    if request.session.testsfailed != failed:
        for host in deployed_trio.fleet.lab.hosts.values():
            host.heal()
        deployed_trio.apply()
