"""The inventory changes, and only what it says changes on the hosts."""

import pytest

from tests.e2e.fleets import Deployment, Fleet, wait_for
from tests.e2e.streams import Asking
from tests.e2e.test_restarts import settled_pids, worker_pids
from tests.lab import LabHost

pytestmark = pytest.mark.lab

MOST_COMMANDS = 3
PACKAGE = "/opt/rbee/current/lib/python3*/site-packages/rbee_runtime"


def changes(deployment: Deployment) -> dict[str, list[str]]:
    """Return the operations that changed something, by host, out of pyinfra's JSON or what rbee-deploy has of it."""
    found: dict[str, list[str]] = {}
    report = deployment.report
    for operation in report.get("result", report)["results"]["operations"]:
        for host in operation["success"]:
            name = host if isinstance(host, str) else host["host"]
            found.setdefault(name, []).append(operation["name"])
    return found


def daemon_pids(host: LabHost) -> str:
    """Return the main processes of queen and hive on a host."""
    return host.run("systemctl show rbee-queen rbee-hive -p MainPID --value").stdout


def test_a_second_run_changes_nothing(deployed: Fleet) -> None:
    """The same command again reports zero changes and needs at most three remote commands a host."""
    again = deployed.deploy("--json")
    assert changes(again) == {}
    counts = [
        int(line.split("remote command")[0].split()[-1])
        for line in again.errors.splitlines()
        if "remote command" in line
    ]
    assert counts
    assert max(counts) <= MOST_COMMANDS


def test_a_third_host_changes_only_itself(deployed: Fleet) -> None:
    """A new line brings up that host and its worker; queen and first GPU host keep their processes."""
    queen, first = deployed.queen, deployed.lab.hosts["gpu1"]
    before = daemon_pids(queen), daemon_pids(first), settled_pids(deployed, first)
    third = deployed.lab.add_host("gpu2")
    deployed.declare(third)
    try:
        changed = changes(deployed.deploy("--json"))
        assert set(changed) == {"queen", "gpu2"}
        assert "stage: install the release" not in changed["queen"]
        rows = deployed.wait_ready("smol", 2)
        assert {row["hive"] for row in rows} == {"gpu1", "gpu2"}
        assert (daemon_pids(queen), daemon_pids(first), worker_pids(first)) == before
    finally:
        del deployed.hosts["gpu2"]
        deployed.deploy()
        deployed.lab.remove_host(third)
    deployed.wait_ready("smol", 1)


def test_a_model_is_added_without_a_restart(deployed: Fleet) -> None:
    """A new model serves, and neither queen nor hive nor any other worker was restarted."""
    queen, first = deployed.queen, deployed.lab.hosts["gpu1"]
    before = daemon_pids(queen), daemon_pids(first), settled_pids(deployed, first)
    deployed.models["extra"] = {"name": "extra", "source": "fake:tokens=3"}
    try:
        deployed.deploy()
        deployed.wait_ready("extra")
        answer = deployed.client().chat.completions.create(model="extra", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content
        assert (daemon_pids(queen), daemon_pids(first)) == before[:2]
        assert before[2].items() <= worker_pids(first).items()
    finally:
        del deployed.models["extra"]
        deployed.deploy()
        wait_for("the worker's end", lambda: worker_pids(first) == before[2])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("echo '# by hand' >> /etc/rbee/hive.yaml", "hive.yaml"),
        ("chmod 0666 /etc/systemd/system/rbee-hive.service", "rbee-hive.service"),
        ("systemctl stop rbee-hive", "rbee-hive"),
        ("systemctl disable rbee-hive", "rbee-hive"),
        ("rm /etc/rbee/credentials/hive.key", "hive.key"),
        ("ln -sfn /tmp /opt/rbee/current", "current"),
        (f"rm -rf {PACKAGE}; systemctl restart --no-block rbee-hive", "release"),
    ],
)
def test_hand_edits_are_put_right(deployed: Fleet, damage: str, named: str) -> None:
    """Whatever was changed by hand on a host is as declared after the same command, and then stays so."""
    host = deployed.lab.hosts["gpu1"]
    pids = settled_pids(deployed, host)
    host.run(damage)
    assert set(changes(deployed.deploy("--json"))) == {"gpu1"}, named
    assert changes(deployed.deploy("--json")) == {}
    assert worker_pids(host) == pids


def test_a_damaged_release_is_installed_anew(deployed: Fleet) -> None:
    """A release that lacks a package is named by check and whole after apply, and no request notices either."""
    host = deployed.lab.hosts["gpu1"]
    pids = daemon_pids(host), settled_pids(deployed, host)
    release = host.run("basename $(readlink /opt/rbee/current)").stdout.strip()
    with Asking(deployed) as asking:
        host.run(f"rm -rf {PACKAGE}")
        found = deployed.rbee_deploy("check")
        assert found.code == 2
        assert f"release {release} on this host is damaged" in found.errors, found.output + found.errors
        repaired = deployed.rbee_deploy("apply")
        assert repaired.code == 0, repaired.output + repaired.errors
    assert asking.failures == []
    assert changes(deployed.deploy("--json")) == {}
    assert deployed.rbee_deploy("check").code == 0
    assert (daemon_pids(host), worker_pids(host)) == pids
    host.run(f"test -f {PACKAGE}/__init__.py && test ! -e /opt/rbee/releases/.{release}")
