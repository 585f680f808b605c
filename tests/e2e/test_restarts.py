"""Queen and hive may be restarted or killed at any time: workers and streams do not notice."""

import pytest

from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.streams import Asking, Stream
from tests.lab import LabHost

pytestmark = pytest.mark.lab

TOKENS = 120
ACCIDENTS = {
    "hive restarted": ("gpu1", "systemctl restart rbee-hive"),
    "hive killed": ("gpu1", "systemctl kill --kill-whom=main -s KILL rbee-hive"),
    "queen restarted": ("queen", "systemctl restart rbee-queen"),
    "queen killed": ("queen", "systemctl kill --kill-whom=main -s KILL rbee-queen"),
}


def worker_pids(host: LabHost) -> dict[str, str]:
    """Return the main process of every worker unit on a host."""
    listed = host.run("systemctl show 'rbee-worker@*' -p Id,MainPID").stdout
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in listed.split("\n\n") if block]
    return {block["Id"]: block["MainPID"] for block in blocks}


def settled_pids(fleet: Fleet, host: LabHost) -> dict[str, str]:
    """Return the main process of every worker unit once all are ready workers of declared models.

    A test that compares processes must not begin while a worker of an earlier test ends: the queen
    reads a new fleet file a moment after the deploy, and systemd lets go of a unit after the queen did.
    """

    def settled() -> dict[str, str]:
        rows = [row for row in fleet.workers() if row["hive"] == host.name]
        ready = {f"rbee-worker@{row['id']}.service" for row in rows if row["model"] in fleet.models}
        found = worker_pids(host)
        return found if found.keys() == ready else {}

    pids: dict[str, str] = wait_for(f"only ready workers on {host.name}", settled)
    return pids


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_no_stream_is_cut(deployed: Fleet, accident: str) -> None:
    """Streams end whole, new requests are answered throughout, and the workers are the same processes."""
    where, command = ACCIDENTS[accident]
    before = settled_pids(deployed, deployed.lab.hosts["gpu1"])
    streams = [Stream(deployed).begin() for _ in range(4)]
    with Asking(deployed) as asking:
        deployed.lab.hosts[where].run(command)
        for stream in streams:
            stream.end()
        wait_for("more answers", lambda: asking.answered > 3)
    wait_for("an active unit", lambda: unit_is_active(deployed, where))
    assert [(stream.error, stream.finish) for stream in streams] == [("", "length")] * 4
    assert {len(stream.text.split()) for stream in streams} == {TOKENS}
    assert asking.answered > 3
    assert asking.failures == []
    assert worker_pids(deployed.lab.hosts["gpu1"]) == before


def unit_is_active(fleet: Fleet, where: str) -> bool:
    """Say whether the host's daemon is up again."""
    unit = "rbee-queen" if where == "queen" else "rbee-hive"
    return fleet.lab.hosts[where].run(f"systemctl is-active {unit}", check=False).stdout.strip() == "active"


def test_a_drained_hive_takes_no_requests_until_undrained(deployed: Fleet) -> None:
    """Draining a hive lets its streams finish and releases its workers; undraining brings them back."""
    stream = Stream(deployed).begin()
    deployed.admin("hives/gpu1/drain", method="POST")
    assert stream.end().finish == "length", stream.error
    wait_for("a drained hive", lambda: not deployed.workers())
    deployed.admin("hives/gpu1/undrain", method="POST")
    deployed.wait_ready("slow", 2)
    deployed.wait_ready("smol")
