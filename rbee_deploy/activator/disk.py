"""Files written whole or not at all, and on the disk before anybody relies on them."""

import os
import stat
import tempfile
from pathlib import Path

_UNTRUSTED = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def private_folder(path: Path) -> None:
    """Make a folder that only root reads."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write(path: Path, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace a file in one step; `owner` are uid and gid. Nobody else can read it before it has mode and owner."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".rbee-new")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    settle(path.parent)


def read_untrusted(path: Path, *, most: int) -> bytes:
    """Return the first bytes of a file in a folder that somebody else writes, or raise OSError if it is none."""
    return _read(os.open(path, _UNTRUSTED), most, str(path))


def _read(handle: int, most: int, name: str) -> bytes:
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{name} is not a file")
        return file.read(most)


def read_untrusted_below(folder: Path, name: str, *, most: int) -> bytes:
    """Return as much of a file whose name has folders in it that somebody else writes as well; no link is followed."""
    *above, last = Path(name).parts
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in above:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = inner
        return _read(os.open(last, _UNTRUSTED, dir_fd=handle), most, name)
    finally:
        os.close(handle)


def link(path: Path, target: str) -> None:
    """Point a link at another target without a moment in which there is none."""
    draft = path.with_name(f".{path.name}.rbee-new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(path)
    settle(path.parent)


def settle(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
