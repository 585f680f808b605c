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
import os, signal, sys
children = []
try:
    while len(children) < {2 * PROCESSES}:
        children.append(os.fork() or signal.pause())
except OSError as error:
    print("told:", sys.argv[1], "forked", len(children), error.errno)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
FILL = f"[open('/tmp/much', 'ab').write(bytes(2**20)) for _ in range({2 * MEMORY // 2**20})]"
ASK = f"""
bound() {{
kind=$1; shift
"$@" podman system service --time=0 unix:///run/$kind/asked.sock &
"$@" podman network create --internal --interface-name {NETWORK} {NETWORK}
until test -S /run/$kind/asked.sock; do sleep 1; done
ask="curl --silent --unix-socket /run/$kind/asked.sock http://d/v5.0.0/libpod/containers"
$ask/create -H 'content-type: application/json' --data @/mnt/create.json
$ask/{NAME}/start -X POST
pid=$("$@" podman inspect --format '{{{{.State.Pid}}}}' {NAME})
group=/sys/fs/cgroup$(cut -d: -f3 /proc/$pid/cgroup)
# The engine's own group of the container is above that of its first process.
test "$(cat $group/memory.max)" != max || group=${{group%/*}}
echo told: $kind user $(stat --format %u /proc/$pid)
echo told: $kind limits $(cat $group/memory.max $group/pids.max)
"$@" podman exec {NAME} python3 -uc "$(cat /mnt/fork.py)" $kind
"$@" podman exec {NAME} python3 -c "{FILL}"
sleep 2
echo told: $kind ended $("$@" podman inspect --format '{{{{.State.Status}}}} {{{{.State.OOMKilled}}}}' {NAME})
echo told: $kind killed $(cat $group/memory.events | grep '^oom_kill ')
# A Python that is the first process hears no SIGTERM.
"$@" podman rm --force --time=0 {NAME}
}}
set -x
systemctl start dbus
mkdir /run/root && bound root env
# As the activator has it: a user that lingers, and an API that begins outside of what its service manager has.
useradd --create-home engine
uid=$(id --user engine)
mkdir -p /var/lib/systemd/linger && touch /var/lib/systemd/linger/engine && systemctl start user@$uid
touch /etc/resolv.conf
chown --recursive engine: /srv
install --directory --owner=engine /run/rootless
cd / && bound rootless runuser --user engine -- env HOME=/home/engine XDG_RUNTIME_DIR=/run/user/$uid
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
    """With root and without, a container's group has what a launcher asks: no fork too many, and an end by memory."""
    given = tmp_path / "given"
    given.mkdir()
    (given / "create.json").write_text(request())
    (given / "fork.py").write_text(FORK)
    found: dict[str, dict[str, str]] = {kind: {} for kind in ("root", "rootless")}
    for kind, name, rest in (line.split(" ", 2) for line in guest.told(ASK, given, ensure_image(BASE.name))):
        found[kind][name] = rest
    for told in found.values():
        assert told["limits"] == f"{MEMORY} {PROCESSES}"
        number, code = map(int, told["forked"].split())
        assert (0 < number < PROCESSES, code) == (True, errno.EAGAIN)
        assert int(told["killed"].split()[1]) > 0
    # What a user without rights is lent begins above the ids of the host's own users.
    assert (int(found["root"]["user"]), int(found["rootless"]["user"]) > 2**16) == (1000, True)
