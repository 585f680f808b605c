"""Ansible in an environment of its own, and how much a playbook asks of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import environments

REQUIREMENTS = "bench-ansible.txt"


def environment() -> Path:
    """Return a virtual environment with the pinned ansible-core."""
    return environments.made("ansible", REQUIREMENTS)


def playbook_command(environment: Path, forks: int) -> tuple[str, ...]:
    """Return the command that a user types in the playbook's folder.

    The interpreter is named, because the script of an environment that can be moved starts a shell first.
    """
    program = environment / "bin" / "ansible-playbook"
    return (str(environment / "bin" / "python"), str(program), "--forks", str(forks), "site.yml")


def version(environment: Path) -> str:
    """Return the version of ansible-core in an environment."""
    found = next(environment.glob("lib/python*/site-packages/ansible_core-*.dist-info"))
    return found.name.removeprefix("ansible_core-").removesuffix(".dist-info")


def task_count(playbook: str) -> int:
    """Return how many tasks and handlers a playbook has; a block is what is in it."""
    plays = yaml.safe_load(playbook)
    return sum(1 for play in plays for part in ("tasks", "handlers") for _ in _tasks(play.get(part, ())))


def _tasks(entries: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if "block" in entry:
            yield from _tasks(entry["block"])
        else:
            yield entry
