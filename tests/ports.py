"""Ports for servers that a test starts: never ones that the kernel may hand to somebody's connection meanwhile."""

import itertools
import os

from rbee_runtime.hive.worker_ports import is_free

FIRST, BLOCK = 10000, 2000
"""Below the ephemeral ports, of which any may be taken between the look and the server; a block per test process."""

_offsets = itertools.count(os.getpid() % 40 * 50)


def free_ports(count: int) -> tuple[int, int]:
    """Return the bounds of a range that is free right now and that no test of this process was given lately."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
    block = FIRST + BLOCK * number
    while True:
        first = block + next(_offsets) % (BLOCK - count)
        if all(is_free("127.0.0.1", first + position) for position in range(count)):
            for _ in range(count):
                next(_offsets)
            return first, first + count - 1


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]
