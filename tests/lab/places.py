"""Where images and labs live on this machine, and the locks that guard them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "XDG_CACHE_HOME"
LABS_VARIABLE = "RBEE_LAB_DIR"
DEFAULT_LABS = Path("/var/tmp/rbee-lab")


def image_cache() -> Path:
    """Return the folder of finished base images."""
    base = os.environ.get(CACHE_VARIABLE) or "~/.cache"
    return Path(base).expanduser() / "rbee" / "lab"


def labs_root() -> Path:
    """Return the folder that holds one folder per lab."""
    return Path(os.environ.get(LABS_VARIABLE) or DEFAULT_LABS)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel drops it when the process dies, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
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
