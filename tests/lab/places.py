"""Where images and labs live on this machine, and the locks that guard them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.errors import LabError

CACHE_VARIABLE = "XDG_CACHE_HOME"
LABS_VARIABLE = "RBEE_LAB_DIR"
DEFAULT_LABS = Path("/var/tmp/rbee-lab")


def image_cache() -> Path:
    """Return the folder of finished base images."""
    base = os.environ.get(CACHE_VARIABLE) or "~/.cache"
    try:
        return Path(base).expanduser() / "rbee" / "lab"
    except RuntimeError as error:
        raise LabError(f"this user has no home folder for images: set {CACHE_VARIABLE} to a folder") from error


def labs_root() -> Path:
    """Return the folder that holds one folder per lab."""
    return Path(os.environ.get(LABS_VARIABLE) or DEFAULT_LABS)


def lab_folders() -> list[Path]:
    """Return what lies in the folder of labs, by name; nothing where there is no such folder."""
    root = labs_root()
    try:
        return sorted(root.iterdir()) if root.is_dir() else []
    except OSError as error:
        raise LabError(f"cannot read {root}: {error.strerror}; {LABS_VARIABLE} says where labs are") from error


@contextmanager
def locked(path: Path, *, variable: str = LABS_VARIABLE) -> Iterator[None]:
    """Hold an exclusive lock; the kernel drops it when the process dies, however it dies.

    `variable` moves the lock's folder; LabError names it where that folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise LabError(
            f"cannot write to {path.parent}: {error.strerror}; set {variable} to a folder that you may write"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def registry_lock() -> Iterator[None]:
    """Hold the lock under which names, subnets and forwarding are chosen and given back."""
    with locked(labs_root() / ".lock"):
        yield


@contextmanager
def sweep_lock() -> Iterator[None]:
    """Hold the lock under which what interrupted runs left is removed; take it before the registry's."""
    with locked(labs_root() / ".sweep"):
        yield
