"""The fleet of these tests: a queen, two GPU hosts, a scripted model on both, and releases to go over to."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.fleets import ROOT, Deployment, Fleet, wait_for
from tests.e2e.test_changes import changes
from tests.faults.deploy import sources
from tests.lab import LabHost

HERE = Path(__file__).parent
MODEL = "slow"
TOKENS = 20
SECONDS = 240.0
OWNED = "/etc/rbee /etc/systemd/system /etc/polkit-1/rules.d /opt/rbee"
AUDIT = "/var/lib/rbee/deploy/audit.jsonl"
KILLED = -int(signal.SIGKILL)


@dataclass
class Trio:
    """A fleet and where copies of the sources lie; `fleet.sources` is what the next command deploys."""

    fleet: Fleet
    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def sources(self, name: str, *edits: sources.Edit) -> Path:
        """Return a copy of this checkout with changes, made once."""
        if name not in self.made:
            self.made[name] = sources.copy(self.folder / name, *edits)
        return self.made[name]

    def turn(self) -> None:
        """Have the other one of two good releases deployed from now on: every change is an upgrade."""
        other = self.sources("other", sources.OTHER)
        self.fleet.sources = other if self.fleet.sources == ROOT else ROOT

    def host(self, name: str) -> LabHost:
        """Return a lab host."""
        return self.fleet.lab.hosts[name]

    def apply(self, *arguments: str, command: str = "apply") -> Deployment:
        """Run rbee-deploy."""
        return self.fleet.rbee_deploy(command, *arguments)

    def converge(self) -> None:
        """Deploy, and hold it to that."""
        done = self.apply()
        assert done.code == 0, done.errors

    def changes(self) -> dict[str, list[str]]:
        """Deploy, and return what it changed."""
        return changes(self.apply("--json"))

    def begin(self, step: str, *words: str, until: Path | None = None) -> "subprocess.Popen[str]":
        """Start a command; when a step begins ("": none) it is killed with all its processes, or waits for a file."""
        waits = "" if until is None else str(until)
        inventory = str(self.fleet.inventory)
        return subprocess.Popen(
            [sys.executable, str(HERE / "driver.py"), waits, step, *(words or ("apply",)), "-i", inventory],
            cwd=self.fleet.sources,
            env=self.fleet.surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def killed_at(self, step: str, *words: str) -> None:
        """Run a command, apply if no other is given, and have it killed when a step begins."""
        run = self.begin(step, *words)
        said, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == KILLED, said

    def answers(self) -> None:
        """Hold the fleet to answering a request whole."""
        answer = self.fleet.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=2
        )
        assert answer.choices[0].finish_reason == "length"

    def serves(self) -> None:
        """Wait for a worker on every hive, of the release that the hive has."""
        wait_for("workers that are up to date", self._is_up_to_date, seconds=120)

    def _is_up_to_date(self) -> bool:
        rows = self.fleet.workers(MODEL)
        hives = {name for name, declared in self.fleet.hosts.items() if declared.get("hive", True)}
        return {row["hive"] for row in rows} == hives and not any(row["outdated"] for row in rows)


def look(host: LabHost) -> dict[str, str]:
    """Return every owned path of a host with all that can be told of it, its time included."""
    listed = host.run(
        f"find {OWNED} -path /opt/rbee/releases/'*/*' -prune -o -path /opt/rbee/engines/'*/*' -prune"
        " -o -not -type d -printf '%p\\t%y %m %u %g %s %T@ %l\\n'"
        f"; find {OWNED} -maxdepth 2 -type d -printf '%p\\t%y %m %u %g\\n'"
    ).stdout
    return dict(line.split("\t", 1) for line in listed.splitlines())


def contents(host: LabHost) -> str:
    """Return the hash of every file that the deployer owns, its release, and what its units are."""
    return host.run(
        "find /etc/rbee /etc/systemd/system /etc/polkit-1/rules.d -type f | sort | xargs sha256sum;"
        " readlink /opt/rbee/current; systemctl is-enabled rbee.target rbee-queen.socket rbee-queen rbee-hive;"
        " systemctl is-active rbee.target rbee-queen.socket rbee-queen rbee-hive",
        check=False,
    ).stdout


def release(host: LabHost) -> str:
    """Return the release that is in force on a host."""
    return Path(host.run("readlink /opt/rbee/current").stdout.strip()).name


def pids(host: LabHost) -> dict[str, str]:
    """Return the main process of every unit of rbee on a host, workers included."""
    listed = host.run("systemctl show 'rbee-*' -p Id,MainPID").stdout
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in listed.split("\n\n") if block]
    return {block["Id"]: block["MainPID"] for block in blocks if "MainPID" in block}


def audit(host: LabHost) -> list[Mapping[str, str]]:
    """Return what was noted of activations on a host, the newest last."""
    return [json.loads(line) for line in host.run(f"cat {AUDIT}").stdout.splitlines()]


def line(text: str, host: str, stage: str = "") -> str:
    """Return the first line of the report that is of a host and a stage; "" if there is none."""
    rows = (row for row in text.splitlines() if row.split()[:1] == [host])
    return next((row for row in rows if row.removeprefix(host).strip().startswith(stage)), "")


def activator(host: LabHost, step: str, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run the activator of the release in force, killed after a step; "" lets it end."""
    text = shlex.quote((HERE / "host_driver.py").read_text())
    python = f"/opt/rbee/releases/{release(host)}/bin/python"
    return host.run(f"{python} -I -c {text} {shlex.join((step, *words))}", check=False, timeout=SECONDS)
