"""Which processes belong to which worker."""

import os
import subprocess
import sys

from rbee_runtime.devices import families
from rbee_runtime.devices.tree import RecordedTree


def stat(pid: int, parent: int, name: str = "engine") -> tuple[str, str]:
    return f"/proc/{pid}/stat", f"{pid} ({name}) S {parent} 1 1 0"


def test_descendants_of_all_generations_belong_to_their_worker() -> None:
    """Names with brackets and spaces, siblings and strangers do not confuse it."""
    rows = [stat(10, 1), stat(11, 10, "a) S 1 (b"), stat(12, 11), stat(13, 10), stat(20, 1), stat(21, 20), stat(30, 1)]
    found = families.of([10, 20, 99], RecordedTree(dict(rows), {}))
    assert found == {10: {10, 11, 12, 13}, 20: {20, 21}, 99: {99}}


def test_a_process_between_two_states_is_skipped() -> None:
    """A file that is empty because its process just ended is no error."""
    tree = RecordedTree(dict([stat(10, 1)]) | {"/proc/11/stat": "", "/proc/self/stat": "x"}, {})
    assert families.of([10], tree) == {10: {10}}


def test_real_children_are_found() -> None:
    """A process that we start is ours."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = families.of([os.getpid()])
        child.communicate(b"\n", timeout=20)
    assert {os.getpid(), child.pid} <= found[os.getpid()]


def test_nobody_is_looked_for_without_workers() -> None:
    """An idle hive does not walk over /proc."""
    assert families.of([], RecordedTree({}, {})) == {}
