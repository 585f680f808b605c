"""What control groups (v1 and v2) leave this process of the host's memory and processors."""

from dataclasses import dataclass

from rbee_runtime.devices.tree import Tree, number, pairs

_V2 = "/sys/fs/cgroup"
_V1 = "/sys/fs/cgroup/{controller}"

_NO_LIMIT = 2**60
"""v1 says "no limit" as the largest multiple of the page size, which differs by architecture."""


@dataclass(frozen=True)
class Limits:
    """`memory` is the tightest limit in bytes; `free` the bytes left under the fullest one; `cpus` quota in cores.

    Each is None where there is no limit.
    """

    memory: int | None = None
    free: int | None = None
    cpus: float | None = None


def limits(tree: Tree) -> Limits:
    """Return the limits along the whole path from this process's group to the root."""
    paths = _groups(tree)
    unified, memory, cpu = paths.get("", ""), paths.get("memory"), paths.get("cpu")
    used = [_memory_v1(tree, at) for at in _levels(_V1.format(controller="memory"), memory)]
    used += [_memory_v2(tree, at) for at in _levels(_V2, unified)]
    cpus = [_cpu_v1(tree, at) for at in _levels(_V1.format(controller="cpu"), cpu)]
    cpus += [_cpu_v2(tree, at) for at in _levels(_V2, unified)]
    known = [pair for pair in used if pair is not None]
    return Limits(
        memory=min((limit for limit, _ in known), default=None),
        free=min((max(0, limit - taken) for limit, taken in known), default=None),
        cpus=min((quota for quota in cpus if quota is not None), default=None),
    )


def _groups(tree: Tree) -> dict[str, str]:
    """Return this process's group by controller; the unified hierarchy of v2 has no controller's name."""
    found = {}
    for line in (tree.text("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _levels(mount: str, path: str | None) -> list[str]:
    """Return the folders of a group and of all groups above it; of the mount alone where the path is another view's."""
    if path is None:
        return []
    parts = [part for part in path.split("/") if part and part != ".."]
    return [mount + "".join(f"/{part}" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]


def _memory_v2(tree: Tree, at: str) -> tuple[int, int] | None:
    limit = number(tree, f"{at}/memory.max")
    return None if limit is None else (limit, _taken(tree, at, "memory.current", ("inactive_file", "active_file")))


def _memory_v1(tree: Tree, at: str) -> tuple[int, int] | None:
    limit = number(tree, f"{at}/memory.limit_in_bytes")
    if limit is None or limit > _NO_LIMIT:
        return None
    cache = ("total_inactive_file", "total_active_file")
    return limit, _taken(tree, at, "memory.usage_in_bytes", cache)


def _taken(tree: Tree, at: str, usage: str, cache: tuple[str, str]) -> int:
    """Return what is used without the page cache, which makes room for a new process."""
    stat = pairs(tree.text(f"{at}/memory.stat") or "")
    return max(0, (number(tree, f"{at}/{usage}") or 0) - sum(int(stat.get(name, "0")) for name in cache))


def _cpu_v2(tree: Tree, at: str) -> float | None:
    quota, period = (*(tree.text(f"{at}/cpu.max") or "max").split(), "100000")[:2]
    return None if quota == "max" else int(quota) / int(period)


def _cpu_v1(tree: Tree, at: str) -> float | None:
    quota, period = number(tree, f"{at}/cpu.cfs_quota_us"), number(tree, f"{at}/cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None
