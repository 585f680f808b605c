"""Ansible in an environment of its own, and how much a playbook asks of it."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from rbee_deploy import pins, wheels
from rbee_deploy.artefacts import Say, Target, cache_root, cached_dir, digest_of, say_to_stderr
from rbee_deploy.commands import run

REQUIREMENTS = "bench-ansible.txt"


def environment(cache: Path | None = None, *, say: Say = say_to_stderr) -> Path:
    """Return a virtual environment with the pinned ansible-core, kept by content and compiled beforehand."""
    target = Target.this_machine()
    wanted = pins.read(REQUIREMENTS, target)
    root = cache or cache_root()
    key = digest_of(*(pin.line() for pin in wanted), sys.version, sys.platform)[:16]

    def install(draft: Path) -> None:
        for command in install_commands(draft, wheels.download(wanted, target, root, say=say)):
            run(command, title="install ansible-core", say=say)

    return cached_dir(root / "tools" / f"ansible-{key}", install)


def install_commands(folder: Path, wheelhouse: Path) -> tuple[tuple[str, ...], ...]:
    """Return the commands that install the wheels of a folder, which has been checked by hash, into `folder`."""
    uv = str(Path(sys.executable).with_name("uv"))
    return (
        (uv, "venv", "--quiet", "--offline", "--clear", "--relocatable", "--python", sys.executable, str(folder)),
        (
            uv, "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", "--python",
            str(folder / "bin" / "python"), "--compile-bytecode", "--find-links", str(wheelhouse), "--require-hashes",
            "--requirements", str(wheelhouse / "requirements.txt"),
        ),
    )  # fmt: skip


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
