"""What a host needs before rbee: checks, packages, users, groups and directories."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from rbee_deploy.accounts import Directory, Group, User
from rbee_deploy.drift import directory_drift, groups_lacked
from rbee_deploy.errors import DeployError
from rbee_deploy.facts.memo import observe
from rbee_deploy.observed import Observed
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import as_root_command, refused
from rbee_deploy.packages import BARE, Need, install, known, missing


@operation()
def accepted(problems: list[str] | Callable[[], list[str]]) -> Iterator[FunctionCommand]:
    """Fail the host on every problem that preflight calls fatal."""
    found = now(problems)
    if found:
        yield from refused(found)
    else:
        host.noop("nothing stands in the way")


@operation()
def settled(choose: Callable[[], None]) -> Iterator[StringCommand]:
    """Settle what the host is to be; nothing is sent to it."""
    choose()
    host.noop("it is settled")
    yield from ()


@operation()
def prepared(plan: Callable[[], Any]) -> Iterator[FunctionCommand]:
    """Make on this machine what the host needs; what cannot be made fails this host only."""
    try:
        plan()
    except DeployError as error:
        yield from refused([str(error)])


@operation()
def packages(needed: bool | Callable[[], bool], wanted: tuple[Need, ...] = BARE) -> Iterator[StringCommand]:
    """Install the packages that are missing of what is wanted, and nothing else."""
    raw = observe(host).raw
    distribution, lacking = known(raw), missing(raw, wanted)
    if distribution is not None and lacking and now(needed):
        yield as_root_command(install(lacking, distribution.manager))
    else:
        host.noop("every package is there")


@operation()
def groups(groups: list[Group] | Callable[[], list[Group]]) -> Iterator[StringCommand]:
    """Make the groups that are missing."""
    there = observe(host).names("groups")
    missing = [group.name for group in now(groups) if group.name not in there]
    for name in missing:
        yield as_root_command(shlex.join(("groupadd", "--system", "--", name)))
    if not missing:
        host.noop("every group is there")


@operation()
def users(users: list[User] | Callable[[], list[User]]) -> Iterator[StringCommand]:
    """Make the users that are missing and add those that exist to the groups that they lack."""
    facts, changed = observe(host), False
    for user in now(users):
        lines = user_commands(user, facts)
        changed = changed or bool(lines)
        for line in lines:
            yield as_root_command(line)
    if not changed:
        host.noop("every user is there")


def user_commands(user: User, facts: Observed) -> list[str]:
    """Return the commands that make one user as it should be."""
    lacking = groups_lacked(user, facts)
    if user.name in facts.names("users"):
        return [shlex.join(("usermod", "-a", "-G", ",".join(lacking), "--", user.name))] if lacking else []
    settings = ("--home-dir", user.home, "--shell", user.shell, "--comment", user.comment)
    joined = ("--groups", ",".join(lacking)) if lacking else ()
    made = ("useradd", "--system", "--user-group", "--no-create-home", *settings, *joined, "--", user.name)
    return [shlex.join(made)]


@operation()
def directories(directories: list[Directory] | Callable[[], list[Directory]]) -> Iterator[StringCommand]:
    """Make directories with owner and mode, and put right those that differ."""
    facts, wanted = observe(host), now(directories)
    wrong = [directory for directory in wanted if directory_drift(directory, facts.paths.get(directory.path))]
    python = str(facts.raw.get("python_path") or "python3")
    for directory in wrong:
        yield as_root_command(made(directory, wanted, python=python))
    if not wrong:
        host.noop("every directory is there")


def made(directory: Directory, among: Sequence[Directory], *, python: str) -> str:
    """Return the script that makes one of these directories, or puts it right.

    Where a service owns the one above, it could have laid a link there meanwhile, which root must not follow.
    """
    access = (directory.owner, directory.group, directory.mode)
    above = str(PurePosixPath(directory.path).parent)
    if any(other.path == above and other.owner != "root" for other in among):
        return shlex.join((python, "-I", "-c", _WITHOUT_LINKS, directory.path, *access))
    options = (word for pair in zip(("-o", "-g", "-m"), access, strict=True) for word in pair)
    return shlex.join(("install", "-d", *options, "--", directory.path))


_WITHOUT_LINKS = """\
import contextlib, grp, os, pwd, sys
path, owner, group, mode = sys.argv[1:]
above, name = os.path.split(path)
folder = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
with contextlib.suppress(FileExistsError):
    os.mkdir(name, 0o700, dir_fd=folder)
try:
    found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
except OSError:
    sys.exit(f"{path} is not a directory; remove it and run the same command again")
os.fchown(found, pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
os.fchmod(found, int(mode, 8))
"""
