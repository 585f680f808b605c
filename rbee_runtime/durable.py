"""Files that survive a crash: a reader sees the old content or the new one, never a part."""

import contextlib
import os
import tempfile
from pathlib import Path

from rbee_runtime.errors import StateError


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data` at once and make it last, or raise StateError and leave the old content."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data, mode)
    except OSError as error:
        hint = "check its owner and the free space there"
        if isinstance(error, NotADirectoryError | FileExistsError):
            hint = "a part of this path is a file; move that, or use another folder"
        raise StateError(f"cannot write {path}: {error.strerror}; {hint}") from error


def remove(path: Path) -> None:
    """Remove `path` if it is there, or raise StateError; also where a full disk refuses new files."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot remove {path}: {error.strerror}; check its owner and how it is mounted") from error


def _replace(path: Path, data: bytes, mode: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as draft:
            draft.write(data)
            draft.flush()
            os.fchmod(draft.fileno(), mode)
            os.fsync(draft.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` last; some network file systems cannot, and then the rename alone has to do."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
