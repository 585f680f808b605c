"""Whether the kernel has killed a process for want of memory, as this process's control group counts it."""

from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def kills(*, own: Path = Path("/proc/self/cgroup"), root: Path = _GROUPS) -> int | None:
    """Return how many processes of our control group were killed; None where nothing says so."""
    for place in _places(own, root):
        try:
            rows = dict(line.split(maxsplit=1) for line in place.read_text(encoding="ascii").splitlines())
            return int(rows["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _places(own: Path, root: Path) -> list[Path]:
    """Return the files that may count, those of the unified tree first."""
    try:
        rows = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    unified = [root / path.lstrip("/") / "memory.events" for _, controllers, path in rows if not controllers]
    older = [
        root / "memory" / path.lstrip("/") / "memory.oom_control"
        for _, controllers, path in rows
        if "memory" in controllers.split(",")
    ]
    return unified + older
