"""The commonest fleet: the queen on one of the GPU hosts, a second GPU host, TLS for clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import Fleet, small_fleet
from tests.e2e.test_changes import changes

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def pair(smol_model: Path) -> Iterator[Fleet]:
    """Give two hosts, both hives, one of them the queen too."""
    with small_fleet("pair", queen_is_hive=True, client_endpoint="fleet-tls") as fleet:
        fleet.models["smol"] = {
            "name": "smol",
            "source": f"file:{smol_model}",
            "replicas": "each_host",
            "context": 2048,
        }
        fleet.deploy()
        fleet.wait_ready("smol", 2)
        yield fleet


def test_both_hosts_serve(pair: Fleet) -> None:
    """Each host has a worker, and the official client gets an answer over TLS of the fleet's own authority."""
    assert {row["hive"] for row in pair.workers("smol")} == {"queen", "gpu1"}
    answer = pair.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    assert answer.choices[0].message.content


def test_it_is_converged(pair: Fleet) -> None:
    """The second run changes nothing on either host."""
    assert changes(pair.deploy("--json")) == {}


def test_it_goes_on_without_the_second_host(pair: Fleet) -> None:
    """When the second host loses power, requests are answered by the first, and it comes back by itself."""
    gpu = pair.lab.hosts["gpu1"]
    gpu.hard_stop()
    try:
        for _ in range(6):
            answer = pair.client().chat.completions.create(
                model="smol", messages=[{"role": "user", "content": "hi"}], max_tokens=2, timeout=20
            )
            assert answer.choices
    finally:
        gpu.boot()
    pair.wait_ready("smol", 2)
