"""Limits of a worker's container, held by a kernel with the unified hierarchy in a machine of its own."""

import errno
import json
from pathlib import Path

import pytest
from podman.domain.containers_create import CreateMixin

from rbee_runtime.hive.launchers.containers import ContainerPlan, EngineFacts
from rbee_runtime.hive.launchers.podman import arguments
from rbee_runtime.worker_bridge import NETWORK, mac_of
from tests.lab import ensure_image
from tests.lab.recipes import BASE
from tests.sandbox import guest

pytestmark = [pytest.mark.lab, pytest.mark.full]

MEMORY, PROCESSES = 64 * 2**20, 40
NAME = "rbee-worker-small"
FORK = f"""
import os, signal
children = []
try:
    while len(children) < {2 * PROCESSES}:
        children.append(os.fork() or signal.pause())
except OSError as error:
    print("told: forked", len(children), error.errno)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
FILL = f"[open('/tmp/much', 'ab').write(bytes(2**20)) for _ in range({2 * MEMORY // 2**20})]"
ASK = f"""
systemctl start dbus
podman system service --time=0 unix:///run/asked.sock &
podman network create --internal --interface-name {NETWORK} {NETWORK}
until test -S /run/asked.sock; do sleep 1; done
ask="curl --silent --unix-socket /run/asked.sock http://d/v5.0.0/libpod/containers"
set -x
$ask/create -H 'content-type: application/json' --data @/mnt/create.json
$ask/{NAME}/start -X POST
pid=$(podman inspect --format '{{{{.State.Pid}}}}' {NAME})
group=/sys/fs/cgroup$(cut -d: -f3 /proc/$pid/cgroup)
# The engine's own group of the container is above that of its first process.
test "$(cat $group/memory.max)" != max || group=${{group%/*}}
echo told: limits $(cat $group/memory.max $group/pids.max)
podman exec {NAME} python3 -uc "$(cat /mnt/fork.py)"
podman exec {NAME} python3 -c "{FILL}"
sleep 2
echo told: ended $(podman inspect --format '{{{{.State.Status}}}} {{{{.State.OOMKilled}}}}' {NAME})
echo told: killed $(cat $group/memory.events | grep '^oom_kill ')
"""


def request() -> str:
    """Return what a launcher asks of Podman for a worker with limits, with a tree in place of an image."""
    wanted = ContainerPlan(
        name=NAME,
        image="",
        labels={"rbee.worker": "small"},
        arguments=("-c", "import time; time.sleep(3600)"),
        environment={"HOME": "/tmp"},
        uid=1000,
        gid=1000,
        groups=(),
        mounts={},
        network=NETWORK,
        mac=mac_of("small"),
        address="",
        port=9000,
        tmpfs={"/tmp": 4 * MEMORY},
        memory=MEMORY,
        pids=PROCESSES,
        program="/usr/bin/python3",
    )
    facts = EngineFacts(frozenset({"memory", "pids"}), log_driver="k8s-file")
    rendered = CreateMixin._render_payload({"image": "", **arguments(wanted, facts)})
    return json.dumps({**rendered, "image": "", "rootfs": "/srv"})


def test_the_kernel_holds_a_worker_to_its_limits(tmp_path: Path) -> None:
    """What a launcher asks for is what the container's group has: a fork too many fails, and memory ends a process."""
    given = tmp_path / "given"
    given.mkdir()
    (given / "create.json").write_text(request())
    (given / "fork.py").write_text(FORK)
    found = dict(line.partition(" ")[::2] for line in guest.told(ASK, given, ensure_image(BASE.name)))
    assert found["limits"] == f"{MEMORY} {PROCESSES}"
    number, code = map(int, found["forked"].split())
    assert (0 < number < PROCESSES, code) == (True, errno.EAGAIN)
    assert int(found["killed"].split()[1]) > 0
