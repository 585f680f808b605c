"""Hosts on which engines can limit containers.

Hosts of the lab have the unified hierarchy. Where this machine keeps its controllers in legacy ones, engines find none;
they are then started in a mount namespace of their own that shows the legacy hierarchies, as on a host that has these.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from tests.sandbox.hive_box import HiveBox, wait_for

HOLDER = "legacy-hierarchies.service"
CONTROLLERS = "memory pids devices freezer cpu cpuacct cpuset blkio"
MOUNT = f"""
mount --make-rprivate / && cd /sys/fs && mount -t tmpfs -o mode=755 tmpfs cgroup
for each in {CONTROLLERS}; do mkdir cgroup/$each; mount -t cgroup -o $each cgroup cgroup/$each; done
mkdir cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup cgroup/systemd
touch /run/legacy && exec sleep infinity
"""
# The kernel keeps the engines' empty groups, and those are this machine's.
REMOVE = "find /sys/fs/cgroup/*/docker /sys/fs/cgroup/*/libpod_parent -depth -type d -exec rmdir {} + 2>/dev/null"
PODMAN = "podman --cgroup-manager=cgroupfs"
PROGRAMS = {
    "podman": {"podman": f"/usr/bin/{PODMAN} system service --time=0"},
    "docker": {
        "containerd": "/usr/bin/containerd",
        "docker": "/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock",
    },
}
QUIET = "PODMAN_IGNORE_CGROUPSV1_WARNING=1"


def unified(box: HiveBox) -> bool:
    """Say whether the host's own hierarchy has the controllers."""
    return "memory" in box.host.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split()


@contextmanager
def limiting(box: HiveBox, settings: str) -> Iterator[str]:
    """Run hive and engine with these settings of containers, the engine with all controllers; then as before.

    Gives the words before a command that shall see the engine's hierarchies.
    """
    services = PROGRAMS[box.engine] if not unified(box) else {}
    stop = f"systemctl stop rbee.target rbee-workers; systemctl stop {box.units} {' '.join(services)}"
    start = f"systemctl daemon-reload; {box.bring_back} rbee.target"
    enter = ""
    try:
        box.host.run(stop)
        enter = _show_legacy(box) if services else ""
        for name, program in services.items():
            text = f"[Service]\nEnvironment={QUIET}\nExecStart=\nExecStart={enter} {program}\n"
            box.host.put(text, f"/run/systemd/system/{name}.service.d/legacy.conf")
        box.configure(settings)
        box.host.run(start)
        yield enter
    finally:
        box.configure()
        box.host.run(stop)
        if services:
            box.host.run(f"{enter} sh -c '{REMOVE}'; systemctl stop {HOLDER}", check=False)
            box.host.run("rm -f /run/legacy /run/systemd/system/*/legacy.conf")
        box.host.run(start)


def _show_legacy(box: HiveBox) -> str:
    """Make the namespace and return the words that lead a program into it."""
    program = f"/usr/bin/unshare --mount sh -ec {shlex.quote(MOUNT)}"
    box.host.run(f"systemd-run --quiet --collect --unit={HOLDER} {program}")
    wait_for("the legacy hierarchies", lambda: box.host.run("test -e /run/legacy", check=False).returncode == 0)
    pid = box.host.run(f"systemctl show --property=MainPID --value {HOLDER}").stdout.strip()
    return f"/usr/bin/nsenter --target={pid} --mount --"


def limits(box: HiveBox, pid: int) -> list[str]:
    """Return the memory in bytes and the processes that a process's own control group lets it have."""
    files = "memory.max pids.max" if unified(box) else "memory/memory.limit_in_bytes pids/pids.max"
    return box.host.run(f"cd /proc/{pid}/root/sys/fs/cgroup && cat {files}").stdout.split()


FORK = """
import os, signal
children = []
try:
    while len(children) < {most}:
        children.append(os.fork() or signal.pause())
except OSError as error:
    print(len(children), error.errno)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def refused_fork(box: HiveBox, enter: str, worker: str, *, pid: int, most: int) -> tuple[int, int]:
    """Fork in a worker's container until that is refused; return how often it went, and the error's number.

    Fails when so many were not refused.
    """
    engine = f"{enter} env {QUIET} {PODMAN if enter and box.engine == 'podman' else box.engine}"
    python = box.host.run(f"readlink /proc/{pid}/exe").stdout.strip()
    program = shlex.quote(FORK.format(most=most))
    said = box.host.run(f"{engine} exec rbee-worker-{worker} {python} -uc {program}", check=False).stdout
    number, code = said.split()
    return int(number), int(code)


def fill_memory(box: HiveBox, enter: str, worker: str, *, pid: int, mebibytes: int) -> None:
    """Write so much into the memory file system of a worker's container, from inside."""
    program = f"[open('/tmp/much', 'ab').write(bytes(2**20)) for _ in range({mebibytes})]"
    engine = f"{enter} env {QUIET} {PODMAN if enter and box.engine == 'podman' else box.engine}"
    python = box.host.run(f"readlink /proc/{pid}/exe").stdout.strip()
    # It may be among what the kernel ends.
    box.host.run(f'{engine} exec rbee-worker-{worker} {python} -c "{program}"', check=False)
