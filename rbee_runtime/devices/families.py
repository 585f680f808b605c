"""Which processes belong to which worker: engines fork, and a container's main process is its engine's parent."""

from collections.abc import Iterable, Mapping

from rbee_runtime.devices.reading import Workers
from rbee_runtime.devices.tree import HostTree, Tree


def of(workers: Iterable[int], tree: Tree | None = None) -> Workers:
    """Return each worker's pid with its own and all its descendants' pids, from one walk over /proc."""
    wanted = frozenset(workers)
    if not wanted:
        return {}
    children: dict[int, list[int]] = {}
    for pid, parent in _parents(tree or HostTree()).items():
        children.setdefault(parent, []).append(pid)
    return {worker: _descendants(worker, children) for worker in wanted}


def _parents(tree: Tree) -> dict[int, int]:
    # psutil would look at every process's start time too, which makes the walk four times as long.
    found = {}
    for name in tree.names("/proc"):
        if name.isdigit():
            # The command's name is in brackets and may hold anything, brackets and spaces too.
            fields = (tree.text(f"/proc/{name}/stat") or "").rpartition(")")[2].split()
            if len(fields) > 1:
                found[int(name)] = int(fields[1])
    return found


def _descendants(pid: int, children: Mapping[int, list[int]]) -> frozenset[int]:
    found = {pid}
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return frozenset(found)
