"""Run a command inside a running host, in its namespaces and its cgroup, within milliseconds."""

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.processes import cgroups

ROOT_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SHELL": "/bin/bash",
    "USER": "root",
}
# What `timeout` exits with; after it, SIGKILL takes what ignored SIGTERM.
TIMED_OUT = 124
KILL_AFTER_S = 5
# Each argument before `--` is a cgroup: a daemon started here must be the host's, not this machine's.
JOIN_AND_GO = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"'


def shell_argv(user: str, command: str) -> list[str]:
    """Return what runs a shell line as root or, through a login, as another user."""
    return ["bash", "-c", command] if user == "root" else ["runuser", "--login", user, "--command", command]


def enter(
    directory: Path,
    leader: int,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[str]:
    """Run a command as root inside a host.

    Output goes through files, so that a daemon which the command leaves behind with its output open blocks nobody.
    Raises LabError if the command does not end in time.
    """
    line = _entering_argv(directory, leader, argv, env, timeout)
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        status = subprocess.call(line, stdin=given, stdout=out, stderr=err)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if status == TIMED_OUT:
        raise LabError(f"{shlex.join(argv)} did not end within {timeout:g} s: {texts[1].strip()[-300:]}")
    return subprocess.CompletedProcess(list(argv), status, *texts)


def _entering_argv(
    directory: Path, leader: int, argv: Sequence[str], env: Mapping[str, str], timeout: float
) -> list[str]:
    groups = [group / "host/payload/lab-run" for group in cgroups(directory)]
    for group in groups:
        group.mkdir(exist_ok=True)
    variables = [f"{key}={value}" for key, value in env.items()]
    inside = ["env", "--ignore-environment", "--chdir=/root", *variables]
    limit = ["timeout", f"--kill-after={KILL_AFTER_S}", f"{timeout:g}"]
    join = ["sh", "-c", JOIN_AND_GO, "join", *map(str, groups), "--"]
    return [*join, "nsenter", f"--target={leader}", "--all", "--", *inside, *limit, *argv]
