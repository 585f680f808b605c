"""The parts of `make bench-deploy` that need no host: options, figures, the playbook and its input."""

import grp
import json
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import environments
from benchmarks.deploy import __main__ as program
from benchmarks.deploy import ansible, checking, rendering, results, sides, upgrade
from benchmarks.deploy.results import Case, Compared, Crowd, Run
from demo.build import LAB_TARGET
from rbee_deploy.artefacts import Artefact
from rbee_deploy.inventory import fleet, host, model
from rbee_deploy.plan import HostPlan, Workshop
from rbee_deploy.site import Site
from rbee_runtime.errors import ConfigError
from tests.e2e.fleets import ROOT

SAID = "box1  verify  0.1 s  unchanged\nbox1   1 remote command\nbox20  12 remote commands\n"
PLAYBOOK = yaml.safe_load((rendering.PLAYBOOK / "site.yml").read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return a fleet of a queen that is a hive too, and a hive."""
    queen, _ = fleet(
        "bench",
        hosts=[
            host("box1", address="192.0.2.1", queen=True, engines=[], ssh_user="ops"),
            host("box2", address="192.0.2.2", engines=[], ssh_user="ops"),
        ],
        models=[model("echo", source="fake:tokens=3")],
        client_endpoint="plain-http",
        secrets_dir=tmp_path_factory.mktemp("bench") / "secrets",
    )
    declared: Site = queen[0][1]["rbee"].site
    return declared


@pytest.fixture
def written(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, HostPlan]]:
    """Return the folder of a playbook for the fleet, and what rbee itself would bring to each host."""
    made = {
        name: Artefact(id=f"{name}-1", archive=tmp_path / name, sha256="0" * 64, size=1) for name in ("release", "uv")
    }
    monkeypatch.setattr("rbee_deploy.releases.build_release", lambda *_, **__: made["release"])
    monkeypatch.setattr("rbee_deploy.releases.uv_binary", lambda *_, **__: made["uv"])
    rendering.write(site, tmp_path / "book", present=("video",))
    shop = Workshop(site)
    return tmp_path / "book", {declared.name: shop.plan(declared, LAB_TARGET) for declared in site.hosts}


def values(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "host_vars" / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--hosts", "0"], "is not between 1 and 10"),
        (["--hosts", "1,eleven"], "is not between 1 and 10"),
        (["--hosts", ""], "is not between 1 and 10"),
        (["--cases", "noop,second"], "'second' is not a valid Case; the cases are first, noop, change, upgrade, fleet"),
    ],
)
def test_what_cannot_be_measured_is_refused(line: list[str], says: str) -> None:
    """A number of hosts or a case that there is not is one sentence."""
    with pytest.raises(ConfigError, match=says):
        program.read_options(line)


def test_options_choose_hosts_and_cases() -> None:
    """Without options everything is measured."""
    chosen, default = program.read_options(["--hosts", "1,2", "--cases", "noop"]), program.read_options([])
    assert (chosen.hosts, chosen.cases) == ((1, 2), (Case.NOOP,))
    assert (default.hosts, default.cases) == ((1, 2, 5), tuple(Case))


def test_a_case_is_a_row_and_a_line_of_json() -> None:
    """Medians, how many times faster rbee is, and the most commands that one host got in any run."""
    rbee = (Run(1.0, SAID), Run(4.0, "box1  3 remote commands\n"), Run(2.0, SAID))
    noop = Compared(Case.NOOP, 2, rbee, (Run(9.0), Run(12.0), Run(12.0)))
    expected = {"bench": "deploy-noop", "hosts": 2, "rbee_s": 2.0, "ansible_s": 12.0, "ratio": 6.0}
    assert json.loads(noop.line()) == {**expected, "remote_commands": 12}
    assert results.table([noop]).splitlines()[1].split() == ["noop", "2", "2.00", "12.00", "6.00", "12"]


def test_goals_say_whether_they_are_met() -> None:
    """One sentence for each figure that has a goal; other cases have none."""
    noop = Compared(Case.NOOP, 2, (Run(2.0, SAID),), (Run(12.0),))
    first = Compared(Case.FIRST, 2, (Run(2.0, SAID),), (Run(2.0),))
    crowd = Crowd(100, 20, full=Run(15.5), noop=Run(4.0))
    assert list(results.goals([first, noop], crowd)) == [
        "no-op, 2 hosts: ratio 6, goal >= 5: met",
        "no-op, 2 hosts: remote commands 12, goal <= 3: not met",
        "100 made-up hosts, full: seconds 15.5, goal <= 15: not met",
        "100 made-up hosts, no-op: seconds 4, goal <= 5: met",
    ]
    expected = {"bench": "deploy-fleet", "hosts": 100, "latency_ms": 20, "full_s": 15.5, "noop_s": 4.0}
    assert json.loads(crowd.line()) == expected


def test_the_playbook_is_counted_by_its_tasks() -> None:
    """Handlers count, a block counts as what is in it."""
    text = (
        "- tasks:\n  - {name: a}\n  - {block: [{name: b}, {name: c}]}\n  handlers: [{name: d}]\n- tasks: [{name: e}]\n"
    )
    assert ansible.task_count(text) == 5


def test_the_playbook_is_written_as_by_an_expert() -> None:
    """No facts, loops over what is many, pipelining and a connection that stays."""
    (play,) = PLAYBOOK
    assert play["gather_facts"] is False
    loops = {task["loop"] for task in play["tasks"] if "loop" in task}
    assert {"{{ rbee_files }}", "{{ rbee_users }}", "{{ rbee_units }}"} <= loops
    settings = (rendering.PLAYBOOK / "ansible.cfg").read_text()
    assert "pipelining = true" in settings
    assert "ControlPersist=60s" in settings


def test_the_playbook_brings_what_rbee_brings(written: tuple[Path, dict[str, HostPlan]]) -> None:
    """Every file of a host has rbee's content, owner, group and mode, and restarts the same units."""
    folder, plans = written
    for name, plan in plans.items():
        listed = values(folder, name)["rbee_files"]
        found = [
            (item["path"], (folder / item["src"]).read_text(), item["owner"], item["group"], item["mode"])
            for item in listed
        ]
        assert found == [(file.path, file.text(), file.owner, file.group, file.mode) for file in plan.files]
        assert [set(item["restarts"]) for item in listed] == [set(file.affects) for file in plan.files]


def test_every_restart_has_a_handler(written: tuple[Path, dict[str, HostPlan]]) -> None:
    """What a file or the release notifies is listened for by the playbook."""
    folder, plans = written
    heard = {handler["listen"] for handler in PLAYBOOK[0]["handlers"]}
    told: set[str] = set()
    for host_values in (values(folder, name) for name in plans):
        told.update(host_values["rbee_services"], *(file["restarts"] for file in host_values["rbee_files"]))
    assert told == heard


def test_a_handler_runs_for_its_own_unit_alone() -> None:
    """Ansible notifies every handler of a loop when one file changed; a queen is not restarted for a hive's."""
    for handler in PLAYBOOK[0]["handlers"]:
        assert handler["when"] == f"'{handler['listen']}' in to_restart"


def test_a_secret_is_in_its_own_file_only(written: tuple[Path, dict[str, HostPlan]]) -> None:
    """Neither the command line nor a variable holds one, and nobody else may read the folder or the file."""
    folder, plans = written
    secrets = {file.text() for plan in plans.values() for file in plan.files if file.secret}
    shown = " ".join(ansible.playbook_command(Path("/env"), 2))
    shown += "".join(path.read_text() for path in (folder / "hosts.yml", *(folder / "host_vars").iterdir()))
    assert secrets
    assert not any(line in shown for secret in secrets for line in secret.splitlines() if "-----" not in line)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.glob("files/*/*")} == {0o600}


def test_groups_of_devices_are_joined_where_they_are(written: tuple[Path, dict[str, HostPlan]]) -> None:
    """A user joins a driver's group on hosts that have it, as rbee does."""
    users = {user["name"]: user["groups"] for user in values(written[0], "box2")["rbee_users"]}
    assert users["rbee-worker"] == ["rbee-models", "video"]


def test_ansible_is_installed_without_a_network_and_by_hash() -> None:
    """What was downloaded is what is installed."""
    make, install = environments.install_commands(Path("/env"), Path("/wheels"))
    assert "--offline" in make
    assert {"--offline", "--no-index", "--require-hashes", "--compile-bytecode"} <= set(install)


def test_the_next_release_is_one_comment_away(tmp_path: Path) -> None:
    """A copy of the checkout has everything that a deploy reads, and one file that differs."""
    copy = upgrade.copy_checkout(ROOT, tmp_path / "next")
    files = [path.relative_to(copy) for path in copy.rglob("*") if path.is_file()]
    changed = [str(path) for path in files if (copy / path).read_bytes() != (ROOT / path).read_bytes()]
    assert changed == ["rbee_runtime/__init__.py"]
    assert {"rbee_deploy/deploy.py", "templates/systemd/rbee.target.j2", "config.py"} <= {str(path) for path in files}


def test_a_setting_of_the_interpreter_slows_no_side_down() -> None:
    """A variable that forbids compiled files would count against the tool that was not compiled beforehand."""
    given = {"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "/elsewhere"}
    assert sides.usual_environment(given) == {"PATH": "/bin"}


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """Its exit status and last words are what is said."""
    with pytest.raises(sides.BenchError, match=r"ended with exit status 3:\n  the reason"):
        sides.timed(("sh", "-c", "echo the reason; exit 3"), cwd=tmp_path, environment={})


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [("intact", 0o640, ""), ("spoilt", 0o640, "box1: FILE"), ("intact", 0o600, "box1: access of FILE")],
)
def test_hosts_are_asked_what_they_are(tmp_path: Path, content: str, mode: int, named: str) -> None:
    """What differs on a host is named with it; the questions are asked of a file of this machine here."""
    file, kept = tmp_path / "file", tmp_path / "host_vars"
    file.write_text(content)
    file.chmod(mode)
    (tmp_path / "copy").write_text("intact")
    owner, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    known = {"path": str(file), "src": "copy", "mode": "0640", "owner": owner, "group": group}
    empty: dict[str, Any] = {f"rbee_{part}": [] for part in ("directories", "groups", "users", "units")}
    release = {"rbee_running": {}, "rbee_release": {"folder": "/nowhere"}}
    kept.mkdir()
    (kept / "box1.json").write_text(json.dumps({**empty, **release, "rbee_files": [known]}))
    found = [line for line in asked(tmp_path) if line not in {"/opt/rbee/current", "/nowhere"}]
    assert checking.sentence([("box1", "\n".join(found))]) == named.replace("FILE", str(file))


def asked(folder: Path) -> list[str]:
    """Return what the questions about box1 print on this machine."""
    script = checking.questions(folder, "box1")
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_part_of_a_host_is_asked_about(written: tuple[Path, dict[str, HostPlan]]) -> None:
    """Content and access of each file, accounts, units and what they run: a fresh machine has none of it right."""
    folder, plans = written
    given = values(folder, "box1")
    named = set(asked(folder))
    assert {file.path for file in plans["box1"].files} <= named
    assert {f"access of {item['path']}" for item in given["rbee_directories"]} <= named
    assert {f"user {user['name']}" for user in given["rbee_users"]} <= named
    assert {"group rbee-models", "rbee-hive.service", "what rbee-queen.service runs", "/opt/rbee/current"} <= named
