"""Many made-up hosts under the real command line: order, failures, exit status, number of commands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = Path(__file__).with_name("made_up.py")
HOSTS = 20
MAIN = "from rbee_deploy.cli import main; main()"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the fleet's authority, so that its certificates are issued once."""
    return tmp_path_factory.mktemp("fleet") / "secrets"


def run(
    secrets: Path, *words: str, faults: dict[str, str] | None = None, hosts: int = HOSTS, delay: float = 0.02
) -> subprocess.CompletedProcess[str]:
    """Run pyinfra, or rbee-deploy if `words` begin with one of its commands, on the made-up hosts."""
    wanted = {"secrets": str(secrets), "hosts": hosts, "faults": faults or {}, "delay": delay}
    own = words[:1] in {("apply",), ("plan",)}
    command = (
        [sys.executable, "-c", MAIN, words[0], "-i", str(INVENTORY), *words[1:]]
        if own
        else [str(Path(sys.executable).with_name("pyinfra")), str(INVENTORY), "rbee_deploy/deploy.py", *words]
    )
    environment = {**os.environ, "RBEE_MADE_UP": json.dumps(wanted), "PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def changed(result: dict[str, Any]) -> list[str]:
    """Return the operations that sent anything."""
    return [operation["name"] for operation in result["operations"] if operation["success"]]


def test_a_converged_fleet_changes_nothing(secrets: Path) -> None:
    """Every operation is without effect, standard output is JSON, and each host gets one command."""
    done = run(secrets, "-y", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert changed(results) == []
    assert results["totals"]["error"] == 0
    assert done.stderr.count("  1 remote command\n") == HOSTS


def test_a_plan_of_a_converged_fleet_is_empty(secrets: Path) -> None:
    """A dry run names no change and no conditional change on any host."""
    plan = json.loads(run(secrets, "--dry", "--json", hosts=5).stdout)["plan"]
    assert [entry for entry in plan if entry["hosts_with_change"] or entry["hosts_with_conditional_change"]] == []


@pytest.mark.parametrize(
    ("fault", "said"), [("refused", "sudo refused the SSH user"), ("silent", "it answered nothing as root")]
)
def test_a_host_that_is_refused_leaves_the_others_alone(secrets: Path, fault: str, said: str) -> None:
    """One sentence for the host that preflight refuses, exit status 1, and every other host is done."""
    done = run(secrets, "-y", "--json", faults={"box3": fault}, hosts=5)
    results = json.loads(done.stdout)["results"]
    assert (done.returncode, results["failed_hosts"]) == (1, ["@fake/box3"])
    line = next(line for line in done.stderr.splitlines() if re.match(r"@fake/box3 +preflight +.*failed", line))
    assert said in line
    assert done.stderr.count("verify") >= 4
    assert "Traceback" not in done.stderr


def test_the_queen_is_restarted_before_the_hives(secrets: Path) -> None:
    """With every role outdated, no hive is touched before the queen answered."""
    faults = {f"box{number}": "outdated" for number in range(1, 5)}
    text = run(secrets, "-y", "-vv", faults=faults, hosts=4).stderr
    restarts = re.findall(r"timeout \d+ systemctl restart -- (\S+)", text)
    assert restarts == ["rbee-queen.service"] + ["rbee-hive.service"] * 4


def test_a_queen_that_fails_stops_the_hives(secrets: Path) -> None:
    """A release that does not start on the queen is not spread: outdated hives stay as they are and say why."""
    done = run(secrets, "-y", "-vv", faults={"box1": "broken", "box2": "outdated"}, hosts=3)
    assert done.returncode == 1
    assert "systemctl restart -- rbee-hive.service" not in done.stderr
    report = done.stderr.splitlines()
    assert any(re.match(r"@fake/box1 +activate queen .*failed +rbee did not become ready", line) for line in report)
    assert any("the queen on box1 did not start" in line and line.startswith("@fake/box2") for line in report)
    assert any(re.match(r"@fake/box3 +verify .*unchanged", line) for line in report)


def test_a_hive_that_fails_is_alone(secrets: Path) -> None:
    """The last journal lines of the host that fails are in the report; the others are verified."""
    done = run(secrets, "-y", faults={"box2": "broken"}, hosts=3)
    assert done.returncode == 1
    assert "last journal line" in done.stderr
    assert len(re.findall(r"^@fake/box[13] +verify .*unchanged", done.stderr, re.MULTILINE)) == 2


def test_without_any_host_left_the_answer_is_still_json(secrets: Path) -> None:
    """When every host is refused, rbee-deploy prints JSON on standard output and the report beside it."""
    done = run(secrets, "apply", "--json", faults={"box1": "refused", "box2": "refused"}, hosts=2)
    assert done.returncode == 1
    assert json.loads(done.stdout)["results"]["failed_hosts"] == ["@fake/box1", "@fake/box2"]
    assert done.stderr.count("sudo refused") >= 2


def test_a_plan_says_what_would_be_refused(secrets: Path) -> None:
    """`rbee-deploy plan` fails on a host that apply would refuse, and counts no change for it."""
    done = run(secrets, "plan", "--json", faults={"box2": "refused"}, hosts=2)
    assert done.returncode == 1
    assert not any(entry["hosts_with_change"] for entry in json.loads(done.stdout)["plan"])
    assert re.search(r"^@fake/box2 +preflight .*sudo refused", done.stderr, re.MULTILINE)


def test_limit_leaves_other_hosts_out(secrets: Path) -> None:
    """With --limit only the named host gets commands and lines."""
    done = run(secrets, "apply", "--limit", "@fake/box2", hosts=3)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(@fake/\S+) +\d+ remote", done.stderr, re.MULTILINE) == ["@fake/box2"]


def test_a_limit_that_names_nobody_fails(secrets: Path) -> None:
    """A misspelt host is one sentence and exit status 1, not a success that did nothing."""
    done = run(secrets, "apply", "--limit", "bxo2", hosts=2)
    assert done.returncode == 1
    assert "is called bxo2" in done.stderr
