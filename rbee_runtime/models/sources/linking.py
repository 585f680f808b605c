"""Taking a file of this host into a folder without a second copy of its bytes."""

import errno
import fcntl
import os
import shutil
import stat
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from rbee_runtime.errors import ModelStoreError

_FICLONE = 0x40049409
"""The ioctl by which btrfs, XFS and bcachefs share the blocks of two files (linux/fs.h)."""


class Placed(StrEnum):
    """How a file came to its new name."""

    LINKED = "linked"
    CLONED = "cloned"
    COPIED = "copied"


def place(path: Path, target: Path, *, may_copy: bool = False, mode: int = 0o640) -> Placed:
    """Make `target`, which must not exist, the content of `path`: a hard link, a clone, or a copy where allowed.

    A hard link is made only of a file that is our own, because whoever owns a file can change it in place.
    Raises ModelStoreError, leaving no `target`, where none of them is possible. Blocks: call it from a thread.
    """
    if _linked(path, target):
        return Placed.LINKED
    try:
        with path.open("rb") as source, target.open("xb") as drafted:
            os.fchmod(drafted.fileno(), mode)
            how = _filled(source, drafted, may_copy=may_copy)
    except FileExistsError as error:
        raise ModelStoreError(f"cannot take in {path}: {target} is there already") from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise ModelStoreError(f"cannot take in {path}: {error.strerror}") from error
    if how is None:
        target.unlink(missing_ok=True)
        raise ModelStoreError(_refusal(path, target))
    return how


def _filled(source: BinaryIO, target: BinaryIO, *, may_copy: bool) -> Placed | None:
    if _cloned(source.fileno(), target.fileno()):
        return Placed.CLONED
    if not may_copy:
        return None
    shutil.copyfileobj(source, target, 4 * 1024 * 1024)
    target.flush()
    os.fsync(target.fileno())
    return Placed.COPIED


def _linked(path: Path, target: Path) -> bool:
    try:
        real = path.resolve(strict=True)
        if real.stat().st_uid != os.geteuid() or not _is_open(real.stat(), target.parent.stat()):
            return False
        os.link(real, target)
    except OSError:
        return False
    return True


def _is_open(file: os.stat_result, folder: os.stat_result) -> bool:
    """Say whether those for whom the folder's group is can read the file: a link keeps its owner's mode."""
    shared = bool(file.st_mode & stat.S_IROTH) or (file.st_gid == folder.st_gid and bool(file.st_mode & stat.S_IRGRP))
    return shared or folder.st_gid == os.getegid()


def closed(path: Path, folder: Path) -> Path | None:
    """Return what of the real `path` those for whom the folder's group is cannot open or pass, or None.

    Where the folder is of our own group, workers run as we do. An access list is believed to let them in.
    """
    place = folder.stat()
    if place.st_gid == os.getegid():
        return None
    for each in (path, *path.parents):
        status = each.stat()
        others, group = (stat.S_IXOTH, stat.S_IXGRP) if stat.S_ISDIR(status.st_mode) else (stat.S_IROTH, stat.S_IRGRP)
        allowed = bool(status.st_mode & group) if status.st_gid == place.st_gid else bool(status.st_mode & others)
        if not allowed and not _has_access_list(each):
            return each
    return None


def _has_access_list(path: Path) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        return False
    return True


def _refusal(path: Path, target: Path) -> str:
    return (
        f"{path} cannot be linked or cloned into {target.parent} without a second copy of it: they are on different "
        "disks, or it belongs to another user; put models_dir on the disk of the file, or let the model be fetched"
    )
