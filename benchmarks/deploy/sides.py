"""Both tools over equal hosts: each side has a lab of its own, and brings it to what the same inventory says."""

import abc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.deploy import ansible, checking
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
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=said,
            timeout=SECONDS,
            check=False,
            env={**usual_environment(os.environ), **environment},
        )
        seconds = time.perf_counter() - started
        printed.seek(0)
        said.seek(0)
        run = Run(seconds, said.read(), printed.read())
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)} ended with exit status {done.returncode}:\n{telling(run)}")
    return run


def telling(run: Run) -> str:
    """Return the last lines of a run, and before them the ones that say why a host of a playbook failed."""
    lines = f"{run.printed}{run.said}".splitlines()
    earlier = [line for line in lines[:-LOG_LINES] if line.startswith("fatal:")]
    return "\n".join(f"  {line}" for line in [*earlier, *lines[-LOG_LINES:]])


def usual_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those of Python: some make a program compile all that it imports, each time."""
    return {name: value for name, value in variables.items() if not name.startswith("PYTHON")}


@dataclass
class Side(abc.ABC):
    """One tool and its hosts. `checkout` is the rbee that they shall run, `folder` gets the playbook and its values."""

    fleet: Fleet
    folder: Path
    checkout: Path = ROOT

    def prepare(self) -> None:
        """Write what the hosts should be, and make the release that is brought to them if it is not made yet."""
        first = next(iter(self.fleet.lab.hosts.values()))
        present = first.run(DEVICE_GROUPS).stdout.split()
        command = (sys.executable, "-m", "benchmarks.deploy.rendering", str(self.fleet.inventory), str(self.folder))
        timed((*command, *present), cwd=self.checkout, environment={"PYTHONPATH": str(self.checkout)})

    @abc.abstractmethod
    def deploy(self) -> Run:
        """Type the command."""


@dataclass
class RbeeSide(Side):
    """The hosts of rbee-deploy."""

    def prepare(self) -> None:
        """Have the program compiled as well."""
        super().prepare()
        warm(self.checkout)

    def deploy(self) -> Run:
        """Run `rbee-deploy apply`."""
        return self._run("apply")

    def operations(self) -> int:
        """Return how many operations a deploy has, by a plan of it."""
        return len(json.loads(self._run("plan", "--json").printed)["result"]["plan"])

    def _run(self, *words: str) -> Run:
        program = str(Path(sys.executable).with_name("rbee-deploy"))
        line = (program, words[0], "-i", str(self.fleet.inventory), *words[1:])
        return timed(line, cwd=self.checkout, environment={"PYTHONPATH": str(self.checkout), "PYINFRA_PROGRESS": "off"})


@dataclass
class AnsibleSide(Side):
    """The hosts of the playbook."""

    environment: Path = field(default_factory=ansible.environment)

    def deploy(self) -> Run:
        """Run `ansible-playbook site.yml`."""
        command = ansible.playbook_command(self.environment, len(self.fleet.hosts))
        # Its control sockets and temporary files go away with the folder.
        return timed(command, cwd=self.folder, environment={"ANSIBLE_HOME": str(self.folder / "home")})


def warm(checkout: Path) -> None:
    """Compile rbee-deploy and what it imports, as its installer may leave to the first run."""
    command = (sys.executable, "-c", "import rbee_deploy.cli, rbee_deploy.stages")
    timed(command, cwd=checkout, environment={"PYTHONPATH": str(checkout)})


def check_converged(side: Side) -> None:
    """Raise BenchError unless every host is what the inventory says, whoever deployed it."""
    hosts = side.fleet.lab.hosts.values()
    asked = [(host.name, host.run(checking.questions(side.folder, host.name)).stdout) for host in hosts]
    if wrong := checking.sentence(asked):
        raise BenchError(f"{type(side).__name__}: the hosts are not what the inventory says: {wrong}")


def check_serving(side: Side) -> None:
    """Raise BenchError unless every host's worker is ready and the queen gives a chat answer."""
    fleet = side.fleet
    fleet.wait_ready(MODEL, len(fleet.hosts))
    answer = fleet.client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    if not answer.choices[0].message.content:
        raise BenchError(f"{type(side).__name__}: the queen at {fleet.url} gave an empty answer")
