"""Find and end the processes of one host. The host's folder is its identity: it is in their command lines."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.lab.errors import LabError

POLL_S = 0.02
# SIGKILL takes milliseconds; a machine under load may need seconds to take a tree of processes down.
KILL_S = 20.0


def start_time(pid: int) -> int | None:
    """Return the clock tick at which a process started, or None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def leader(directory: Path) -> int | None:
    """Return the process that is PID 1 inside the host, or None if the host does not run."""
    try:
        nspawn = int((directory / "nspawn.pid").read_text())
        if f"--directory={directory}/root" not in _command_line(nspawn):
            return None
        children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
    except (OSError, ValueError):
        return None
    return next((int(child) for child in children if _is_init(int(child))), None)


def keepers(directory: Path) -> list[int]:
    """Return the processes that start this host, or are about to, and systemd-nspawn itself."""
    marks = {str(directory / "keeper.json"), f"--directory={directory}/root"}
    return [pid for pid in _all_pids() if marks & set(_command_line(pid))]


def kill_all(directory: Path) -> None:
    """End every process of the host at once, keeper first so that none comes back, and remove its cgroups."""
    deadline = time.monotonic() + KILL_S
    while alive := [*keepers(directory), *_members(directory)]:
        if time.monotonic() > deadline:
            raise LabError(f"processes {alive} of {directory} survive SIGKILL: see what holds them with ps")
        for pid in alive:
            kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    for group in cgroups(directory):
        _remove_group(group)


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def cgroups(directory: Path) -> list[Path]:
    """Return the host's cgroup in each hierarchy that it uses; only what carries the lab's name is believed."""
    lab = directory.parent.parent.name
    try:
        groups = [Path(group) for group in json.loads((directory / "cgroups.json").read_text())]
    except (OSError, ValueError):
        return []
    return [group for group in groups if group.name.startswith(f"{lab}-")]


def wait_for(condition: Callable[[], bool], *, timeout: float) -> bool:
    """Poll until the condition holds and say whether it did in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _members(directory: Path) -> list[int]:
    found: set[int] = set()
    for group in cgroups(directory):
        # os.walk goes past groups that vanish meanwhile.
        for folder, _, _ in os.walk(group):
            with suppress(OSError):
                found.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
    return [pid for pid in found if pid > 0 and start_time(pid) is not None]


def _remove_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()


def _is_init(pid: int) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1] == "1"
    return False


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
