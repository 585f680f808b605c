"""Many made-up hosts under the real command line: order, failures, exit status, number of commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.authority import FleetAuthority
from tests.unit.models.gguf_builder import ARCHITECTURE, UINT32, entry, gguf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = Path(__file__).with_name("made_up.py")
HOSTS = 100
"""As many as one run is promised to bear; the other tests take as few as they need."""

OWN = ("apply", "plan", "check", "status", "lock", "rollback", "rotate", "preseed")
MAIN = "from rbee_deploy.main import main; main()"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the fleet's authority, so that its certificates are issued once."""
    return tmp_path_factory.mktemp("fleet") / "secrets"


def line(
    secrets: Path,
    *words: str,
    faults: dict[str, str] | None = None,
    hosts: int,
    delay: float = 0.0,
    rollout: dict[str, Any] | None = None,
    given: dict[str, str] | None = None,
    program: str = MAIN,
    **more: Any,
) -> tuple[list[str], dict[str, str]]:
    """Return the command line on made-up hosts and its environment: pyinfra, or rbee-deploy if `words` begin so.

    `given` are variables of the environment that hold secrets, by the field of each host that names one.
    """
    wanted = {
        "secrets": str(secrets),
        "hosts": hosts,
        "faults": faults or {},
        "delay": delay,
        "rollout": rollout or {},
        "given": given or {},
        **more,
    }
    own = words[:1] in {(name,) for name in OWN}
    command = (
        [sys.executable, "-c", program, words[0], "-i", str(INVENTORY), *words[1:]]
        if own
        else [str(Path(sys.executable).with_name("pyinfra")), str(INVENTORY), "rbee_deploy/deploy.py", *words]
    )
    made_up = {"RBEE_MADE_UP": json.dumps(wanted), "PYTHONPATH": str(ROOT), "PYINFRA_PROGRESS": "off"}
    return command, {**os.environ, **made_up}


def run(secrets: Path, *words: str, **fleet: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command, environment = line(secrets, *words, **fleet)
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


def boxes(first: int, last: int) -> list[str]:
    """Return the names of some hosts in a row."""
    return [f"box{number}" for number in range(first, last + 1)]


def commands(text: str) -> dict[str, int]:
    """Return the number of commands that each host got, as the end of the report has it."""
    found = re.findall(r"^@fake/(box\d+) +(\d+) remote commands?$", text, re.MULTILINE)
    return {name: int(count) for name, count in found}


def test_a_converged_fleet_changes_nothing(secrets: Path) -> None:
    """With a hundred hosts every operation is without effect, standard output is JSON, and each gets one command."""
    done = run(secrets, "-y", "--json", hosts=HOSTS)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert changed(results) == []
    assert results["totals"]["error"] == 0
    assert commands(done.stderr) == dict.fromkeys(boxes(1, HOSTS), 1)


def test_a_rotation_that_fits_no_host_replaces_nothing(tmp_path: Path) -> None:
    """Where every host is refused or silent, the certificates are as they were; where one fits, all are replaced."""

    def rotated(**faults: str) -> tuple[str, dict[str, bytes]]:
        done = run(tmp_path / "secrets", "rotate", "certificates", faults=faults, hosts=2)
        assert done.returncode == 1
        return done.stdout + done.stderr, {str(path): path.read_bytes() for path in tmp_path.rglob("hosts/*/*.pem")}

    said, before = rotated(box1="refused", box2="silent")
    assert "no certificate was replaced; put right what is said above" in said
    assert rotated(box1="silent", box2="refused")[1] == before
    said, after = rotated(box2="refused")
    assert f"{len(before)} new certificates are made; " in said
    assert [path for path in before if before[path] == after[path]] == []


def test_hosts_that_fail_leave_the_others_alone(secrets: Path) -> None:
    """Refused, silent and broken hosts have one line each that says why; exit status 1; every other host is done."""
    faults = {"box2": "broken", "box3": "refused", "box4": "silent"}
    done = run(secrets, "-y", "--json", faults=faults, hosts=6)
    results = json.loads(done.stdout)["results"]
    assert (done.returncode, results["failed_hosts"]) == (1, [f"@fake/{name}" for name in faults])
    said = dict(re.findall(r"^@fake/(box\d) .* failed +(.*)", done.stderr, re.MULTILINE))
    assert set(said) == set(faults)
    assert "did not become ready" in said["box2"]
    assert "sudo refused the SSH user" in said["box3"]
    assert "it answered nothing as root" in said["box4"]
    assert "  last journal line\n" in done.stderr
    assert re.findall(r"^@fake/box(\d) +verify .*unchanged", done.stderr, re.MULTILINE) == ["1", "5", "6"]
    assert "Traceback" not in done.stderr


def test_a_host_that_stops_being_fit_is_no_success(secrets: Path) -> None:
    """What forbids a deploy and shows only after the checks is a sentence with exit status 1, and nothing goes over."""
    done = run(secrets, "-y", "-vv", faults={"box2": "spoilt"}, hosts=3)
    assert done.returncode == 1
    assert re.search(r"^@fake/box2 +verify .*failed +systemd 200 is older than 250", done.stderr, re.MULTILINE)
    assert turns(done.stderr) == []
    assert re.findall(r"^@fake/box(\d+) +verify .*unchanged", done.stderr, re.MULTILINE) == ["1", "3"]


def test_a_document_tells_what_was_and_what_failed(secrets: Path) -> None:
    """Hosts that were reached have their rows beside the one that refused, and the exit status is in it."""
    done = run(secrets, "lock", "--json", faults={"box3": "refused"}, hosts=3)
    found = json.loads(done.stdout)
    assert (done.returncode, found["status"]) == (1, 1)
    assert "sudo refused the SSH user" in found["problem"]
    assert [row["host"] for row in found["result"]["hosts"]][:2] == ["box1", "box2"]
    assert {stage["host"]: stage["verdict"] for stage in found["stages"]} == {"@fake/box3": "failed"}


def test_a_rollback_that_has_nowhere_to_go_is_a_document(secrets: Path) -> None:
    """The stages that were gone through are in it, and the sentence that refuses."""
    done = run(secrets, "rollback", "--json", hosts=2)
    found = json.loads(done.stdout)
    assert (done.returncode, found["result"], found["advice"]) == (1, {"targets": {}}, None)
    assert found["problem"].startswith("no host has an earlier release; rbee-deploy status")
    assert {stage["verdict"] for stage in found["stages"]} == {"unchanged"}
    assert "Traceback" not in done.stderr


def test_a_rollback_says_first_where_it_goes(secrets: Path) -> None:
    """Before a host is touched one line names the time of what is taken back, and which hosts go to which release."""
    done = run(secrets, "rollback", faults=dict.fromkeys(("box1", "box3"), "upgraded"), hosts=3)
    assert done.returncode == 0, done.stderr
    lines = [re.sub(r" {2,}.*", "", line) for line in done.stderr.splitlines()]
    said = next(at for at, line in enumerate(lines) if line.startswith("rolling back"))
    assert re.fullmatch(
        r"rolling back to what was before 197[01]-\d\d-\d\d \d\d:\d\d: box1, box3 to 0\.0\.9-aaaa", lines[said]
    )
    stages = [
        line.split()[1] for line in done.stderr.splitlines() if line.startswith("@fake/") and "remote" not in line
    ]
    assert (stages[:3], said) == (["look"] * 3, 3)
    assert done.stdout == ""


def test_the_queen_is_restarted_before_the_hives(secrets: Path) -> None:
    """With all of a hundred outdated, she answers before a hive is touched; then one goes, then a quarter at a time."""
    done = run(secrets, "-y", "-vv", faults=dict.fromkeys(boxes(1, HOSTS), "outdated"), hosts=HOSTS)
    assert done.returncode == 0, done.stderr
    assert turns(done.stderr) == [boxes(1, 1), boxes(2, 2), boxes(3, 27), boxes(28, 52), boxes(53, 77), boxes(78, 100)]
    # Her host is also asked about the workers of all hives, and looked at once more after that.
    assert commands(done.stderr) == {"box1": 10, **dict.fromkeys(boxes(2, HOSTS), 8)}


def test_a_run_that_fails_takes_back_all_that_it_changed(secrets: Path) -> None:
    """With undo="run" the hosts before the one that failed go back, the queen last; those after were never touched."""
    faults = {"box1": "outdated", "box2": "outdated", "box3": "broken", "box4": "outdated"}
    done = run(secrets, "-y", "-vv", faults=faults, hosts=4, rollout={"undo": "run"})
    assert done.returncode == 1
    assert turns(done.stderr) == [["box1"], ["box2"], ["box3"]]
    assert turns(done.stderr, "activator rollback old") == [["box2"], ["box1"]]
    said = dict(re.findall(r"^@fake/(box\d) +take back .* failed +(.*)", done.stderr, re.MULTILINE))
    assert sorted(said) == ["box1", "box2"]
    assert set(said.values()) == {
        "taken back to its files of before: box3 could not go over to it; put that right and run the same command again"
    }


def test_workers_that_do_not_come_up_fail_a_run_that_has_no_way_back(secrets: Path) -> None:
    """A first install stays as it is, and its exit status and the queen's line say that models are not served."""
    done = run(secrets, "-y", faults={"box1": "stuck"}, hosts=2)
    assert done.returncode == 1
    said = dict(re.findall(r"^@fake/(box\d) +verify .*? failed +(.*)", done.stderr, re.MULTILINE))
    assert said == {
        "box1": "workers do not run what this deploy brought: worker smol-1 on box1 is failed (no such file); "
        "rbee-keeper workers shows when they do"
    }


def turns(text: str, command: str = "activator activate") -> list[list[str]]:
    """Return the hosts that were sent a command, by operation, each in the order of their names."""
    found: list[list[str]] = []
    for operation in text.split("Starting operation"):
        commands = re.split(r"\[@fake/(box\d+)\]\s+>>> ", operation)
        hosts = commands[1::2]
        found.append([name for name, sent in zip(hosts, commands[2::2], strict=True) if command in sent])
    return [sorted(hosts, key=lambda name: int(name.removeprefix("box"))) for hosts in found if hosts]


@pytest.mark.parametrize(
    ("rollout", "order"),
    [
        ({"canary": 0, "batch": "100%"}, [["box1"], ["box2", "box3", "box4", "box5"]]),
        ({"canary": 2, "batch": 1}, [["box1"], ["box2", "box3"], ["box4"], ["box5"]]),
    ],
)
def test_the_operator_says_how_many_at_a_time(secrets: Path, rollout: dict[str, Any], order: list[list[str]]) -> None:
    """Canary and batches are as the inventory says."""
    faults = {f"box{number}": "outdated" for number in range(1, 6)}
    assert turns(run(secrets, "-y", "-vv", faults=faults, hosts=5, rollout=rollout).stderr) == order


def test_a_hive_that_fails_stops_the_ones_after_it(secrets: Path) -> None:
    """The canary's failure leaves all others as they are, each with a line that says so; converged ones are fine."""
    faults = {"box2": "broken", "box3": "outdated", "box5": "outdated"}
    done = run(secrets, "-y", "-vv", faults=faults, hosts=5)
    assert done.returncode == 1
    assert turns(done.stderr) == [["box2"]]
    left = re.findall(r"^@fake/(box\d) .*failed +left as it is: box2 could not", done.stderr, re.MULTILINE)
    assert left == ["box3", "box5"]
    assert re.search(r"^@fake/box4 +verify .*unchanged", done.stderr, re.MULTILINE)


def test_a_failure_in_a_batch_stops_the_batches_after_it(secrets: Path) -> None:
    """Of a hundred hosts its own batch is finished, and each one after it is named, got its files and runs the old."""
    faults = {**dict.fromkeys(boxes(2, HOSTS - 1), "outdated"), "box3": "broken"}
    done = run(secrets, "-y", "-vv", faults=faults, hosts=HOSTS)
    assert done.returncode == 1
    assert turns(done.stderr) == [boxes(2, 2), boxes(3, 27)]
    left = re.findall(r"^@fake/(box\d+) .*failed +left as it is: box3 could not", done.stderr, re.MULTILINE)
    assert left == boxes(28, HOSTS - 1)
    fine = re.findall(r"^@fake/(box\d+) +verify .*unchanged", done.stderr, re.MULTILINE)
    assert fine == [*boxes(1, 2), *boxes(4, 27), f"box{HOSTS}"]
    over, kept = dict.fromkeys(boxes(4, 27), 8), dict.fromkeys(left, 5)
    assert commands(done.stderr) == {"box1": 3, "box2": 8, "box3": 6, **over, **kept, "box100": 1}


def test_a_host_that_somebody_else_deploys_to_is_left_alone(secrets: Path) -> None:
    """Who holds the lease and since when is said; the other hosts are done; exit status 1."""
    done = run(secrets, "-y", "-vv", faults={"box2": "taken", "box3": "outdated"}, hosts=3)
    assert done.returncode == 1
    assert re.search(r"^@fake/box2 +lease .*failed +anna@desk deploys to this host", done.stderr, re.MULTILINE)
    assert turns(done.stderr) == [["box3"]]


@pytest.mark.parametrize("words", [("-y",), ("apply",), ("plan",), ("check",), ("preseed",)])
def test_a_host_of_another_authority_is_left_alone(secrets: Path, words: tuple[str, ...]) -> None:
    """Whatever deploys refuses it, with the folder and the way out, and sends it nothing; the other is looked at."""
    done = run(secrets, *words, faults={"box2": "foreign"}, hosts=2)
    assert done.returncode == 1
    said = rf"^@fake/box2 +preflight .*deployed with another authority than the one in {secrets}; have secrets_dir"
    assert re.search(said, done.stderr, re.MULTILINE)
    assert "@fake/box2  1 remote command\n" in done.stderr
    assert not re.search(r"^@fake/box1 .*failed", done.stderr, re.MULTILINE)


def test_a_new_authority_is_for_a_whole_fleet(secrets: Path) -> None:
    """A host that goes over alone is cut off from its queen, so that nothing is begun."""
    done = run(secrets, "apply", "--new-authority", "--limit", "@fake/box2", faults={"box2": "foreign"}, hosts=2)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("--new-authority is for a whole fleet: ")


@pytest.mark.parametrize(
    "words", [("apply", "--new-authority", "-v"), ("-y", "-vv", "--data", "rbee_new_authority=true")]
)
def test_a_new_authority_is_taken_by_who_asks_for_it(secrets: Path, words: tuple[str, ...]) -> None:
    """rbee-deploy and plain pyinfra deploy the host with this operator's authority when they are told so."""
    done = run(secrets, *words, faults={"box1": "foreign", "box2": "foreign"}, hosts=2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^@fake/box2 +activate hives .*changed", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("words", [("apply",), ("plan",), ("check",)])
def test_the_end_of_the_authority_is_said_in_time(tmp_path: Path, words: tuple[str, ...]) -> None:
    """With fifty days left the queen's host has a line that says when it ends and what to do, and all goes on."""
    then = datetime.now(UTC) - timedelta(days=3600)
    FleetAuthority.open(tmp_path / "secrets", "made-up", clock=lambda: then)
    done = run(tmp_path / "secrets", *words, hosts=2)
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"^@fake/(box\d) .*the authority in .* ends on .*--new-authority", done.stderr, re.MULTILINE)
    assert said == "box1"


def test_check_tells_drift_from_failure(secrets: Path) -> None:
    """Exit status 0 for a converged fleet, 2 with the difference named, 1 for a host that cannot be looked at."""
    assert run(secrets, "check", hosts=2).returncode == 0
    differs = run(secrets, "check", hosts=2, faults={"box2": "outdated"})
    assert (differs.returncode, "runs digest old instead of" in differs.stderr) == (2, True)
    assert run(secrets, "check", hosts=2, faults={"box2": "refused"}).returncode == 1


def test_a_queen_that_fails_stops_the_hives(secrets: Path) -> None:
    """A release that does not start on the queen is not spread: outdated hives stay as they are and say why."""
    done = run(secrets, "-y", "-vv", faults={"box1": "broken", "box2": "outdated"}, hosts=3)
    assert done.returncode == 1
    assert turns(done.stderr) == [["box1"]]
    report = done.stderr.splitlines()
    assert any(re.match(r"@fake/box1 +activate queen .*failed +rbee did not become ready", line) for line in report)
    assert any("the queen on box1 could not go over" in line and line.startswith("@fake/box2") for line in report)
    assert any(re.match(r"@fake/box3 +verify .*unchanged", line) for line in report)


def test_without_any_host_left_the_answer_is_still_json(secrets: Path) -> None:
    """When every host is refused, rbee-deploy says why in its document, and in the report beside it."""
    done = run(secrets, "apply", "--json", faults={"box1": "refused", "box2": "refused"}, hosts=2)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["result"]["results"]["failed_hosts"] == ["@fake/box1", "@fake/box2"]
    assert found["problem"].count("sudo refused") == 2
    assert done.stderr.count("sudo refused") >= 2


def test_a_plan_of_what_is_converged_is_empty(secrets: Path) -> None:
    """A dry run counts no change on a converged host, nor on one that apply would refuse, which fails it."""
    done = run(secrets, "plan", "--json", faults={"box2": "refused"}, hosts=2)
    assert done.returncode == 1
    plan = json.loads(done.stdout)["result"]["plan"]
    assert [entry for entry in plan if entry["hosts_with_change"] or entry["hosts_with_conditional_change"]] == []
    assert re.search(r"^@fake/box2 +preflight .*sudo refused", done.stderr, re.MULTILINE)


def test_a_plan_names_what_would_change(secrets: Path) -> None:
    """For each host: the steps that apply would take and what differs now; nothing else is printed."""
    done = run(secrets, "plan", faults={"box2": "outdated"}, hosts=2)
    lines = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert (done.returncode, done.stdout) == (0, "")
    assert lines[:2] == ["@fake/box1 all unchanged", "@fake/box2 stage would change bring files"]
    assert lines[2] == "@fake/box2 activate hives would change turn 1"
    assert lines[3].startswith("@fake/box2 now differs rbee-hive.service runs digest old instead of")
    assert lines[-2:] == ["@fake/box1 1 remote command", "@fake/box2 1 remote command"]


def test_a_plan_refuses_a_host_that_cannot_load_the_engine(secrets: Path) -> None:
    """A glibc older than the engine was built against is a sentence of preflight, before anything is brought there."""
    done = run(secrets, "plan", hosts=2, engine="2.38", glibc={"box2": "2.36"})
    said = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert (done.returncode, done.stdout) == (1, "")
    (refused,) = (line for line in said if "box2" in line and "glibc" in line)
    assert refused.startswith("@fake/box2 preflight failed its glibc 2.36 is older than the engine's 2.38; upgrade")
    assert "@fake/box1 all unchanged" in said


def test_a_plan_names_a_model_that_no_declared_gpu_holds(secrets: Path, tmp_path: Path) -> None:
    """What its header says that it takes stands beside the largest GPU in one hint, which stops nothing."""
    model = tmp_path / "big.gguf"
    sizes = {"block_count": 80, "embedding_length": 8192, "attention.head_count": 64, "attention.head_count_kv": 64}
    model.write_bytes(gguf((ARCHITECTURE, *(entry(f"llama.{name}", UINT32, size) for name, size in sizes.items()))))
    done = run(secrets, "plan", hosts=1, engine="2.36", model=str(model), gpu="24 GiB")
    said = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    (hint,) = (line for line in said if "model big" in line)
    assert re.search(r"needs 4\d\.\d GiB, the largest declared GPU has 24\.0 GiB; restrict it to other hosts", hint)
    assert any(line.endswith("would change bring models") for line in said)


def test_a_limit_is_kept_and_little_is_said(secrets: Path) -> None:
    """With --limit only the named host gets commands and lines: one line for each stage, and pyinfra is silent."""
    done = run(secrets, "apply", "--limit", "@fake/box2", hosts=3)
    assert (done.returncode, done.stdout) == (0, "")
    *stages, count = done.stderr.splitlines()
    assert [re.split(r"  +", line)[:2] for line in stages] == [
        ["@fake/box2", stage] for stage in ("preflight", "lease", "setup", "stage", "activate hives", "verify", "prune")
    ]
    assert count == "@fake/box2  1 remote command"


def test_a_limit_that_names_nobody_fails(secrets: Path) -> None:
    """A misspelt host is one sentence and exit status 1, not a success that did nothing."""
    done = run(secrets, "apply", "--limit", "bxo2", hosts=2)
    assert done.returncode == 1
    assert "is called 'bxo2'; it has all, hives, made_up, @fake/box1, @fake/box2" in done.stderr


def test_an_interrupt_is_no_success(secrets: Path) -> None:
    """Ctrl-C ends plain pyinfra at once, with exit status 1, a sentence, and the stage that was cut off."""
    command, environment = line(secrets, "-y", hosts=1, delay=20.0)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("Starting operation" in line for line in iter(process.stderr.readline, ""))
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 1
    assert "the same command finishes the job" in said
    assert re.search(r"^@fake/box1 +preflight .*cut off +check the host$", said, re.MULTILINE)
