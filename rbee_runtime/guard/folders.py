"""The folders that workers see, as they are on the disk right now: no way out of them, and nobody exchanges them."""

import os
import pwd
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rbee_runtime import logs
from rbee_runtime.errors import GuardError
from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.worker_container import WorkerContainer

MOUNTS = Path("/proc/self/mountinfo")
_ACCESS_LIST = "system.posix_acl_access"


@dataclass(frozen=True)
class Hive:
    """Who the hive is on this host; None is not known, and could be anybody but root."""

    uid: int | None
    groups: frozenset[int] | None


def check(wanted: WorkerContainer, config: GuardConfig) -> None:
    """Check that folders are what their names say, and that what was asked for lies in them; GuardError."""
    hive = _hive(config.handover)
    for folder in wanted.shown.folders:
        if _real(folder) != folder or not folder.is_dir():
            raise GuardError(
                f"{folder} is a link or no folder: name the real one in models, and in the hive's settings"
            )
        for entry, above in pairwise((folder, *folder.parents)):
            if may_be_exchanged(entry.lstat(), above.stat(), hive, listed=_has_access_list(above)):
                raise GuardError(
                    f"{above} can be written to by the hive, who could exchange {folder}: change its owner or its mode"
                )
    for path in wanted.shown.asked:
        real = _real(path)
        if not any(real.is_relative_to(folder) for folder in config.models):
            raise GuardError(
                f"{ascii(str(path))[:200]} leads to {ascii(str(real))[:200]}, which may not be mounted: add that "
                "folder to models, or fetch the model anew"
            )
    if not wanted.shown.recursive:
        _tell_mounts(wanted, config)


def _tell_mounts(wanted: WorkerContainer, config: GuardConfig) -> None:
    """Say what is mounted below the folders and not shown; GuardError if the worker's model lies there."""
    hidden = {mount: folder for folder in wanted.shown.folders for mount in _mounted_below(folder, config.models)}
    for path in map(_real, wanted.shown.asked):
        for mount, folder in hidden.items():
            if path.is_relative_to(mount):
                raise GuardError(
                    f"{ascii(str(path))[:200]} is on {mount}, which is mounted below {folder} and which "
                    f"{config.engine} would let workers write to: mount it elsewhere, and add that folder to models"
                )
    if hidden:
        shown = ", ".join(map(str, sorted(hidden)))
        logs.warning("mounts_not_shown", worker=wanted.worker, detail=f"workers do not see {shown}")


def _mounted_below(folder: Path, models: Iterable[Path]) -> list[Path]:
    """Return what is mounted below a folder, but for what is in a folder of models further down."""
    inner = [each for each in models if each != folder and each.is_relative_to(folder)]
    found = (_unescaped(line.split()[4]) for line in MOUNTS.read_text(errors="surrogateescape").splitlines())
    below = {mount for mount in found if mount != folder and mount.is_relative_to(folder)}
    return [mount for mount in below if not any(mount.is_relative_to(each) for each in inner)]


def _unescaped(text: str) -> Path:
    """Return a path as it is; the kernel writes white space and backslashes in octal digits."""
    return Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text))


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise GuardError(f"{ascii(str(path))[:200]} cannot be looked at: {error}") from error


def may_be_exchanged(entry: os.stat_result, above: os.stat_result, hive: Hive, *, listed: bool = False) -> bool:
    """Say whether a hive may put something else in the place of an entry of the folder `above`.

    `listed` says that the folder has an access list, in which the bits of the group are the most that anybody is given.
    Root itself could do anything, and is not meant.
    """
    if above.st_uid != 0 and hive.uid in {None, above.st_uid}:
        # An owner may also give the right to write back to itself.
        return True
    group = bool(above.st_mode & stat.S_IWGRP) and (listed or _is_in(above.st_gid, hive))
    if not (group or above.st_mode & stat.S_IWOTH):
        return False
    if not above.st_mode & stat.S_ISVTX:
        return True
    # Of a sticky folder everybody may exchange what is theirs.
    return entry.st_uid != 0 and hive.uid in {None, entry.st_uid}


def _is_in(group: int, hive: Hive) -> bool:
    return group != 0 if hive.groups is None else group in hive.groups


def _has_access_list(folder: Path) -> bool:
    try:
        return _ACCESS_LIST in os.listxattr(folder)
    except OSError:
        # Not every file system has any.
        return False


def _hive(handover: Path) -> Hive:
    """Return the owner of the hive's folder with its groups on this host."""
    try:
        uid = handover.lstat().st_uid
    except OSError:
        return Hive(None, None)
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return Hive(uid, None)
    return Hive(uid, frozenset(os.getgrouplist(found.pw_name, found.pw_gid)))
