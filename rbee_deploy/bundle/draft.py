"""A folder that is made beside its place and takes it in one step."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rbee_deploy.errors import BundleError

_MAKE_ROOM = "make room, or give another folder by -o"

NO_ROOM = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "its file system has a limit for one file, as FAT has: give a folder on another by -o",
}
"""What to do where a file does not fit into a folder, by the number of the error."""


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Keep a second run off the same folder, and say in words what its disk refuses."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BundleError(f"cannot write to {folder.parent}: {error.strerror}; give another folder by -o") from error
    try:
        # The folder above is locked, so that no file has to stay there.
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _old(folder).exists() and not folder.exists():
            # A run was killed between the two renames: this is the only complete one.
            _old(folder).rename(folder)
        yield
    finally:
        os.close(handle)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` if the block succeeds; the caller holds it."""
    draft, old = folder.with_name(f".{folder.name}.new"), _old(folder)
    try:
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir()
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except OSError as error:
        advice = NO_ROOM.get(error.errno or 0, "give another folder by -o")
        raise BundleError(f"cannot write {folder}: {error.strerror}; {advice}") from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)
