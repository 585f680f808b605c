"""First install, no-op, change of one file and upgrade, beside an Ansible playbook for the same end state.

`python -m benchmarks.deploy [--hosts 1,2,5] [--cases first,noop,change,upgrade,fleet]` needs root, makes two equal labs
for each number of hosts and prints a table, the goals and lines of JSON.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ending
from benchmarks.deploy import ansible, cases, crowd
from benchmarks.deploy.rendering import PLAYBOOK
from benchmarks.deploy.results import Case, Compared, Crowd, goals, table
from benchmarks.deploy.sides import BenchError
from rbee_deploy.errors import DeployError
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import ConfigError
from tests.lab import LabError

MOST_HOSTS = 10
"""On each side; a host takes some 200 MiB once it serves."""


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; what cannot be raises ConfigError."""
    parser = Parser(prog="python -m benchmarks.deploy", description=__doc__)
    parser.add_argument("--hosts", type=_counts, default=(1, 2, 5), help="numbers of hosts (default: 1,2,5)")
    parser.add_argument("--cases", type=_cases, default=tuple(Case), help=f"of {','.join(Case)} (default: all)")
    return parser.parse_args(argv)


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(word) if word.isdecimal() else 0 for word in text.split(","))
    if not all(1 <= count <= MOST_HOSTS for count in counts):
        raise argparse.ArgumentTypeError(f"{text!r} has a number that is not between 1 and {MOST_HOSTS}")
    return counts


def _cases(text: str) -> tuple[Case, ...]:
    try:
        return tuple(Case(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; the cases are {', '.join(Case)}") from error


def measure(options: argparse.Namespace) -> tuple[list[Compared], Crowd | None]:
    """Return everything that was asked for."""
    wanted = set(options.cases)
    compared: list[Compared] = []
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as scratch:
        # First, while no lab host uses the processors.
        found = crowd.measure(Path(scratch)) if Case.FLEET in wanted else None
        if wanted - {Case.FLEET}:
            for count in options.hosts:
                compared += cases.measure(count, wanted, Path(scratch))
    return compared, found


def show(compared: Sequence[Compared], found: Crowd | None) -> None:
    """Print the table, the goals and, last, the lines of JSON."""
    if compared:
        tasks = ansible.task_count((PLAYBOOK / "site.yml").read_text(encoding="utf-8"))
        operations = max(item.operations for item in compared)
        version = ansible.version(ansible.environment())
        print(f"rbee-deploy: {operations} operations; ansible-core {version}: {tasks} tasks and handlers\n")
        print(table(compared))
    print("\n".join(["", *goals(compared, found), ""]))
    lines = [*(item.line() for item in compared), *([found.line()] if found is not None else [])]
    print("\n".join(lines))


def main() -> None:
    """Measure and print; exit 1 if something did not run."""
    try:
        show(*measure(read_options()))
    except (BenchError, ConfigError, DeployError, LabError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    ending.quietly(main, "bench-deploy")
