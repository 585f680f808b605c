"""The folders that workers see, as they are on the disk right now: no way out of them, and nobody exchanges them."""

import os
import stat
from pathlib import Path

from rbee_runtime.errors import GuardError
from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.worker_container import WorkerContainer


def check(wanted: WorkerContainer, config: GuardConfig) -> None:
    """Check that folders are what their names say, and that what was asked for lies in them; GuardError."""
    hive = _owner(config.handover)
    for folder in wanted.shown.folders:
        if _real(folder) != folder or not folder.is_dir():
            raise GuardError(
                f"{folder} is a link or no folder: name the real one in models, and in the hive's settings"
            )
        for above in folder.parents:
            if _may_be_exchanged(above, hive):
                raise GuardError(
                    f"{above} can be written to by the hive, who could exchange {folder}: change its owner"
                )
    for path in wanted.shown.asked:
        real = _real(path)
        if not any(real.is_relative_to(folder) for folder in config.models):
            raise GuardError(
                f"{ascii(str(path))[:200]} leads to {ascii(str(real))[:200]}, which may not be mounted: add that "
                "folder to models, or fetch the model anew"
            )


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise GuardError(f"{ascii(str(path))[:200]} cannot be looked at: {error}") from error


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _may_be_exchanged(folder: Path, hive: int | None) -> bool:
    found = folder.stat()
    if found.st_uid != 0 and found.st_uid == hive:
        return True
    return bool(found.st_mode & stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
