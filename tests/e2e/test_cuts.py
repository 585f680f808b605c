"""The network between the queen's host and a GPU host drops what they say of each other; requests go through."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rbee_runtime import ports
from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.test_outages import answered
from tests.e2e.test_restarts import settled_pids
from tests.faults.rows import row
from tests.lab import LabHost

pytestmark = pytest.mark.lab


@contextmanager
def cut(host: LabHost) -> Iterator[None]:
    """Drop packets between queen and hive in both directions; those to workers pass."""
    host.run("nft add table inet cut")
    try:
        for chain, port in (("input", ports.HIVE_PORT), ("output", ports.QUEEN_LINK_PORT)):
            host.run(f"nft add chain inet cut {chain} '{{ type filter hook {chain} priority -10; }}'")
            host.run(f"nft add rule inet cut {chain} tcp dport {port} drop")
        yield
    finally:
        host.run("nft delete table inet cut")


def state(fleet: Fleet) -> str:
    return str(next(hive["state"] for hive in fleet.admin("hives") if hive["name"] == "gpu1"))


def test_m1_a_cut_between_queen_and_hive_costs_no_request(
    deployed: Fleet, record_property: Callable[[str, object], None]
) -> None:
    """With the packets really gone the hive is silent, every request is answered, and no worker is moved."""
    gpu, begun = deployed.lab.hosts["gpu1"], time.monotonic()
    before, failed, asked = settled_pids(deployed, gpu), 0, 0
    with cut(gpu):
        while time.monotonic() < begun + row("M1", "queen").figure("lab_seconds"):
            asked, failed = asked + 1, failed + (answered(deployed) is None)
            time.sleep(0.2)
        assert state(deployed) == "suspect"
    wait_for("the hive", lambda: state(deployed) == "live")
    record_property("asked", asked)
    assert (failed, settled_pids(deployed, gpu)) == (0, before)
