"""Keep one host running: start systemd-nspawn, again after each reboot, and end when the host powers off.

Runs as a process of its own, by path and with the standard library only, so that a host outlives the run that made it.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# What systemd-nspawn exits with when the host asked for a reboot and nobody but its caller can start it again.
REBOOT = 133
CGROUPS = Path("/sys/fs/cgroup")


def main(spec_path: str) -> None:
    """Run the host that the specification describes until it powers off or dies."""
    spec = json.loads(Path(spec_path).read_text())
    directory = Path(spec["directory"])
    # A unit has a group of its own already; the root group is everybody's and must never be taken for it.
    groups = [base / (own if spec["in_unit"] and own else spec["machine"]) for base, own in hierarchies()]
    (directory / "cgroups.json").write_text(json.dumps([str(group) for group in groups]))
    for group in groups:
        prepare(group)
    while boot(spec, directory, groups) == REBOOT:
        pass


def hierarchies() -> list[tuple[Path, str]]:
    """Return where the cgroup hierarchies that systemd inside uses are mounted, and this process's path in each."""
    if (CGROUPS / "cgroup.procs").exists():
        return [(CGROUPS, own_path("0::"))]
    mixed = ((CGROUPS / "unified", own_path("0::")), (CGROUPS / "systemd", own_path("name=systemd:")))
    return [(mount, own) for mount, own in mixed if mount.is_dir()]


def own_path(marker: str) -> str:
    """Return this process's cgroup, relative to its hierarchy."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line.partition(marker)[2].strip("/") for line in lines if marker in line), "")


def prepare(group: Path) -> None:
    """Make one leaf for the keeper and one for the host: a group with processes cannot hand controllers down."""
    for leaf in ("keeper", "host"):
        (group / leaf).mkdir(parents=True, exist_ok=True)
    join(group / "keeper")
    with suppress(OSError):
        controllers = (group / "cgroup.controllers").read_text().split()
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def join(group: Path) -> None:
    """Move this process into a cgroup."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def boot(spec: dict[str, Any], directory: Path, groups: list[Path]) -> int:
    """Run the host once and return the exit status of systemd-nspawn."""
    hosts = [group / "host" for group in groups]
    for host in hosts:
        forget(host)

    def enter_groups() -> None:
        for host in hosts:
            join(host)

    # One thread only, so code between fork and exec is safe here.
    child = subprocess.Popen(spec["argv"], env=dict(spec["env"]), preexec_fn=enter_groups)  # noqa: PLW1509
    (directory / "nspawn.pid").write_text(str(child.pid))
    return child.wait()


def forget(group: Path) -> None:
    """Remove the empty groups that the last boot left below this one."""
    for folder, _, _ in os.walk(group, topdown=False):
        if folder != str(group):
            with suppress(OSError):
                Path(folder).rmdir()


if __name__ == "__main__":
    # Without systemd nobody else takes this process away from its starter.
    if os.environ.get("RBEE_LAB_DETACH") and os.fork():
        os._exit(0)
    main(sys.argv[1])
