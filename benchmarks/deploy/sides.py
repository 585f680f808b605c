"""Both tools over equal hosts: each side has a lab of its own, and brings it to what the same inventory says."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.deploy import ansible
from benchmarks.deploy.results import Run
from tests.e2e.fleets import ROOT, Fleet

MODEL = "echo"
SECONDS = 600.0
LOG_LINES = 15
DEVICE_GROUPS = "getent group video render | cut -d: -f1"


class BenchError(Exception):
    """Something did not run, so that there is nothing to measure; the message says what."""


def timed(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Run:
    """Run a command to its end, which must be a success."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
            env={**usual_environment(os.environ), **environment},
        )
        seconds = time.perf_counter() - started
        output.seek(0)
        said = output.read()
    if done.returncode != 0:
        last = "\n".join(f"  {line}" for line in said.splitlines()[-LOG_LINES:])
        raise BenchError(f"{' '.join(command)} ended with exit status {done.returncode}:\n{last}")
    return Run(seconds, said)


def usual_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those of Python: some make a program compile all that it imports, each time."""
    return {name: value for name, value in variables.items() if not name.startswith("PYTHON")}


class Side(Protocol):
    """One tool and its hosts. `checkout` is the rbee that they shall run."""

    fleet: Fleet
    checkout: Path

    def prepare(self) -> None:
        """Do what a user has done before typing the command."""

    def deploy(self) -> Run:
        """Type the command."""


@dataclass
class RbeeSide:
    """The hosts of rbee-deploy."""

    fleet: Fleet
    checkout: Path = ROOT

    def prepare(self) -> None:
        """Have the program compiled."""
        warm(self.checkout)

    def deploy(self) -> Run:
        """Run `rbee-deploy apply`."""
        return rbee_deploy(self, "apply")


@dataclass
class AnsibleSide:
    """The hosts of the playbook, which lies in `folder`."""

    fleet: Fleet
    folder: Path
    environment: Path
    checkout: Path = ROOT

    def prepare(self) -> None:
        """Write the playbook's values and files anew, and the release that it brings if it is not made yet."""
        first = next(iter(self.fleet.lab.hosts.values()))
        present = first.run(DEVICE_GROUPS).stdout.split()
        command = (sys.executable, "-m", "benchmarks.deploy.rendering", str(self.fleet.inventory), str(self.folder))
        timed((*command, *present), cwd=self.checkout, environment={"PYTHONPATH": str(self.checkout)})

    def deploy(self) -> Run:
        """Run `ansible-playbook site.yml`."""
        command = ansible.playbook_command(self.environment, len(self.fleet.hosts))
        # Its control sockets and temporary files go away with the folder.
        return timed(command, cwd=self.folder, environment={"ANSIBLE_HOME": str(self.folder / "home")})


def warm(checkout: Path) -> None:
    """Compile rbee-deploy and what it imports, as its installer may leave to the first run."""
    command = (sys.executable, "-c", "import rbee_deploy.cli, rbee_deploy.stages")
    timed(command, cwd=checkout, environment={"PYTHONPATH": str(checkout)})


def rbee_deploy(side: Side, command: str) -> Run:
    """Run a command of rbee-deploy on a side's hosts, from the side's checkout."""
    program = str(Path(sys.executable).with_name("rbee-deploy"))
    line = (program, command, "-i", str(side.fleet.inventory))
    return timed(line, cwd=side.checkout, environment={"PYTHONPATH": str(side.checkout), "PYINFRA_PROGRESS": "off"})


def check_converged(side: Side) -> None:
    """Raise BenchError unless rbee finds nothing to do on the hosts, whoever deployed them."""
    said = rbee_deploy(side, "plan").said
    unchanged = set(re.findall(r"^(\S+) +all +unchanged", said, re.MULTILINE))
    if unchanged != set(side.fleet.hosts):
        raise BenchError(f"{type(side).__name__}: the hosts are not what the inventory says:\n{said}")


def check_serving(side: Side) -> None:
    """Raise BenchError unless every host's worker is ready and the queen gives a chat answer."""
    fleet = side.fleet
    fleet.wait_ready(MODEL, len(fleet.hosts))
    answer = fleet.client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    if not answer.choices[0].message.content:
        raise BenchError(f"{type(side).__name__}: the queen at {fleet.url} gave an empty answer")
