"""Clears away what interrupted work left in a store and nobody came back for."""

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

from rbee_runtime.models import locks
from rbee_runtime.models.layout import Layout
from rbee_runtime.protocol import ModelReport

PARTIAL_SECONDS = 7 * 86400.0
"""A download that was not gone on with for a week is not wanted any more."""

QUARANTINE_SECONDS = 7 * 86400.0
ORPHAN_SECONDS = 7 * 86400.0
"""A blob may be without a manifest for as long as it takes somebody to try its model again."""

LEFT_SECONDS = 7 * 86400.0
"""A lease without a heartbeat for so long is of a hive that is gone."""


def sweep(
    layout: Layout, reports: tuple[ModelReport, ...], *, now: float, blobs: Collection[str] = ()
) -> tuple[str, ...]:
    """Remove abandoned partial files, old quarantine, blobs and tables of no model, drafts and leases; return names.

    `reports` are the models whose manifests exist, complete or not; `blobs` (sha256s) are those that pulls count on;
    `now` is unix seconds.
    """
    held = {f"sha256-{sha256}" for sha256 in (*blobs, *(file.sha256 for report in reports for file in report.files))}
    gone = [*_old(layout.quarantine, "*", now - QUARANTINE_SECONDS), *_old(layout.partial, "draft-*", now - 86400)]
    gone += _old(layout.uses, "*.*", now - LEFT_SECONDS)
    # A manifest that cannot be read now, on a network disk that is away for a moment, still holds its blobs.
    if all_read(layout, reports):
        gone += [path for path in _old(layout.blobs, "*", now - ORPHAN_SECONDS) if path.name not in held]
        gone += [path for path in _old(layout.chunks, "*.json", now - ORPHAN_SECONDS) if path.stem not in held]
    for path in gone:
        drop(path)
    parts = [path for path in _old(layout.partial, "*.part", now - PARTIAL_SECONDS) if drop_part(layout, path)]
    return tuple(path.name for path in [*gone, *parts])


def all_read(layout: Layout, reports: Collection[ModelReport]) -> bool:
    """Say whether these are all models that have a manifest, so that a blob that none of them names is of no model."""
    try:
        names = [path.name for path in layout.manifests.iterdir()]
    except OSError:
        return False
    return sum(name.endswith(".json") and not name.startswith(".") for name in names) == len(reports)


def _old(folder: Path, pattern: str, before: float) -> list[Path]:
    """Return entries that are as they are since before `before`."""
    found = []
    with contextlib.suppress(OSError):
        found += [path for path in folder.glob(pattern) if arrived(path) < before]
    return found


def arrived(path: Path) -> float:
    """Return when a file got its content and came to its place; of a hard link only the ctime is new. OSError."""
    stat = path.lstat()
    return max(stat.st_mtime, stat.st_ctime)


def drop_part(layout: Layout, part: Path) -> bool:
    """Remove a partial file unless somebody has its lock; return whether it went."""
    with locks.tried(layout.locks / f"{part.stem}.lock") as mine:
        if mine:
            part.unlink(missing_ok=True)
            part.with_suffix(".json").unlink(missing_ok=True)
        return mine


def drop(path: Path) -> None:
    """Remove a file or folder, as far as that may be."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
