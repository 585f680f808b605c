"""S8, LEASE, DISK, SSH and DEAD: what happens around a deploy, to operators, hosts and the network between them."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rbee_deploy import lease as leases
from tests.e2e.fleets import wait_for
from tests.faults.deploy.trio import SECONDS, Trio, audit, contents, line, pids, release
from tests.faults.rows import FULL, row

pytestmark = pytest.mark.lab

NAMES = ("queen", "gpu1", "gpu2")
FIRST_CHANGE = "stage: install the release"
LEASE = "/run/rbee-deploy/lease"
INCOMING = "/opt/rbee/incoming"


def test_s8_one_host_out_of_reach_is_the_only_one_left(trio: Trio) -> None:
    """The others are done and the one is reported, exit status 1; once it is back, the same command does only that."""
    more = [f"gpu{number}" for number in range(3, row("S8", "deploy").figure("hosts"))]
    with added(trio, more):
        trio.turn()
        trio.host("gpu2").partition()
        done = trio.apply()
        reached = [name for name in (*NAMES, *more) if name != "gpu2"]
        assert done.code == 1
        assert line(done.errors, "gpu2", "connect").split()[2] == "failed", done.errors
        assert [name for name in reached if "failed" in line(done.errors, name, "verify")] == []
        assert len({release(trio.host(name)) for name in reached}) == 1
        assert release(trio.host("gpu2")) != release(trio.host("gpu1"))
        trio.answers()
        trio.host("gpu2").heal()
        assert set(trio.changes()) - {"queen"} == {"gpu2"}
        trio.serves()
    assert trio.changes() == {}


@contextmanager
def added(trio: Trio, names: list[str]) -> Iterator[None]:
    """Have more hosts in the fleet for a while."""
    for name in names:
        trio.fleet.declare(trio.fleet.lab.add_host(name), engines=[])
    trio.converge()
    yield
    for name in names:
        del trio.fleet.hosts[name]
    trio.converge()
    for name in names:
        trio.fleet.lab.remove_host(trio.host(name))


def test_lease_a_second_operator_is_told_who_and_since_when(trio: Trio, tmp_path: Path) -> None:
    """While one deploys, another is refused on every host with name and time, and the first is not disturbed."""
    trio.turn()
    go = tmp_path / "go"
    first = trio.begin(FIRST_CHANGE, until=go)
    try:
        wait_for("the first at work", (tmp_path / "go.reached").exists, seconds=SECONDS)
        since = trio.host("gpu1").run(f"cut -f 3 {LEASE}").stdout.strip()
        second = trio.apply()
    finally:
        go.touch()
        said, _ = first.communicate(timeout=SECONDS)
    assert second.code == 1
    for name in NAMES:
        told = line(second.errors, name, "lease")
        assert f"{leases.operator()} deploys to this host since" in told, second.errors
    assert since in line(second.errors, "gpu1", "lease")
    assert first.returncode == 0, said
    trio.serves()
    assert trio.changes() == {}


def test_lease_of_a_killed_operator_is_taken_over(trio: Trio) -> None:
    """On the same machine at once; on another one not before the lease is stale, and until then it is refused."""
    trio.turn()
    trio.killed_at(FIRST_CHANGE)
    for name in NAMES:
        trio.host(name).run(f"sed -i 's/^[^-]*/000000000000/' {LEASE}")
    refused = trio.apply()
    assert refused.code == 1
    assert all(f"{leases.operator()} deploys to this host" in line(refused.errors, name, "lease") for name in NAMES)
    pass_by(trio, leases.STALE_SECONDS)
    trio.killed_at(FIRST_CHANGE)
    trio.converge()
    trio.serves()


def pass_by(trio: Trio, seconds: float) -> None:
    """Let so much time go by since the last sign of life; the short run makes the leases older instead."""
    if FULL:
        time.sleep(seconds)
    else:
        for name in NAMES:
            trio.host(name).run(f"touch -d '-{seconds:.0f} seconds' {LEASE}")


def test_lease_a_freeze_stops_deploys_and_nothing_else(trio: Trio) -> None:
    """Frozen, apply fails with who, when and why and changes nothing, plan still works, and release ends it."""
    trio.turn()
    before = {name: release(trio.host(name)) for name in NAMES}
    assert trio.apply("--freeze", "the auditors are here", command="lock").code == 0
    refused, planned = trio.apply(), trio.apply(command="plan")
    assert {name: release(trio.host(name)) for name in NAMES} == before
    assert trio.apply("--release", command="lock").code == 0
    assert refused.code == 1
    for name in NAMES:
        told = line(refused.errors, name, "lease")
        assert f"frozen here by {leases.operator()} since" in told
        assert "the auditors are here" in told
        assert "would change" in line(planned.errors, name, "activate"), planned.errors
    assert planned.code == 0
    trio.converge()
    trio.serves()


def test_disk_a_full_one_leaves_all_as_it_was(trio: Trio) -> None:
    """Where a release does not fit while it arrives, the host says so and keeps what it has; with room it converges."""
    trio.turn()
    gpu = trio.host("gpu1")
    before = contents(gpu), release(gpu), pids(gpu)
    # Whatever it had of the other release is gone, so that something has to arrive.
    gpu.run(f"cd /opt/rbee/releases && for one in *; do [ $one = {release(gpu)} ] || rm -rf $one; done")
    gpu.run(f"mkdir -p {INCOMING} && mount -t tmpfs -o size=4m tmpfs {INCOMING}")
    try:
        done = trio.apply()
    finally:
        gpu.run(f"umount {INCOMING}")
    assert done.code == 1
    assert "No space left on device" in line(done.errors, "gpu1", "stage"), done.errors
    assert f"{INCOMING} could not be written; make room" in done.errors
    assert (contents(gpu), release(gpu), pids(gpu)) == before
    trio.answers()
    trio.converge()
    trio.serves()
    assert trio.changes() == {}


def test_ssh_a_lost_connection_stops_no_activation(trio: Trio) -> None:
    """The host ends the activation while nobody can reach it; afterwards the same command restarts nothing there."""
    trio.turn()
    trio.converge()  # both releases are on the host now, so that what follows is short
    trio.serves()
    trio.turn()
    gpu = trio.host("gpu1")
    events = len(audit(gpu))
    run = trio.begin("")
    wait_for("the begin", lambda: len(audit(gpu)) > events, seconds=SECONDS, every=0.01)
    gpu.partition()
    try:
        wait_for("the end", lambda: [one["action"] for one in audit(gpu)[events:]] == ["begin", "done"], seconds=60)
        left = row("SSH", "deploy").figure("away_seconds")
        time.sleep(left)
    finally:
        gpu.heal()
    said = ended(run)
    before = hive(trio)
    trio.converge()
    assert hive(trio) == before, said
    trio.serves()
    assert trio.changes() == {}


def ended(run: "subprocess.Popen[str]") -> str:
    """Return what a command said, whatever became of it."""
    said, _ = run.communicate(timeout=SECONDS)
    return said


def hive(trio: Trio) -> str:
    """Return the hive's process on the first GPU host."""
    return pids(trio.host("gpu1"))["rbee-hive.service"]


def test_dead_a_hive_is_upgraded_without_its_queen(trio: Trio) -> None:
    """With the queen stopped, a deploy to a hive succeeds; when she is back, she replaces the worker by herself."""
    trio.turn()
    queen = trio.host("queen")
    queen.run("systemctl stop rbee-queen.socket rbee-queen.service")
    queen.run("systemctl mask --runtime rbee-queen.service")
    try:
        done = trio.apply("--limit", "gpu1")
        assert done.code == 0, done.errors
        assert "the queen refuses connections" in line(done.errors, "gpu1", "preflight"), done.errors
        assert "failed" not in line(done.errors, "gpu1", "verify")
    finally:
        queen.run("systemctl unmask --runtime rbee-queen.service; systemctl start rbee-queen.socket rbee-queen.service")
    assert release(trio.host("gpu1")) != release(trio.host("gpu2"))
    trio.serves()
    trio.answers()
    trio.converge()
    trio.serves()
    assert trio.changes() == {}
