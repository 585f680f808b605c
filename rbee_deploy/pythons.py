"""The versions of Python that hosts may have: those for which every pinned wheel exists."""

OLDEST = (3, 11)
NEWEST = (3, 14)
SPAN = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"

MODULES = ("asyncio", "ctypes", "json", "sqlite3", "ssl")
"""Parts of the standard library that distributions split off, and that rbee needs."""


def number(version: str) -> tuple[int, ...]:
    """Return `major.minor` as a pair that compares."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def fits(version: str | None, lacks: str = "") -> bool:
    """Say whether a host's Python runs rbee; `lacks` names the MODULES that it comes without."""
    return version is not None and OLDEST <= number(version) <= NEWEST and not lacks


def versions() -> tuple[str, ...]:
    """Return every version that fits, oldest first."""
    return tuple(f"{OLDEST[0]}.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1))
