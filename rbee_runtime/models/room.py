"""What takes room in a store: models, what running pulls are going to take, and leftovers, which go before any model.

A file counts once under the name that it has on its way (`sha256-<hex>`, or `from-…` while its hash is not known),
whether a pull claims it, a part of it came, or it is there.
"""

import contextlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from rbee_runtime.models import locks, sweep
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.partial import Resume
from rbee_runtime.protocol import ModelFile, ModelReport, decode

ABANDONED_SECONDS = 900.0
"""Longer than a hive pauses between two tries (600 s): another one on the same store may go on with the file."""


class Claims:
    """Bytes that running pulls of this process take once they are done, by model and name of the file on its way."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def begin(self, model: str) -> None:
        """Let a pull claim from here on."""
        with self._lock:
            self._held[model] = {}

    def hold(self, model: str, sizes: Mapping[str, int]) -> None:
        """Add to what a pull claims; nothing where it has ended meanwhile, which a thread at its work cannot know."""
        with self._lock:
            if model in self._held:
                self._held[model].update(sizes)

    def settle(self, model: str, key: str, file: ModelFile) -> None:
        """Claim a file that came, and whose hash is known only now, under the name of its content."""
        with self._lock:
            if self._held.get(model, {}).pop(key, None) is not None:
                self._held[model][blob_key(file.sha256)] = file.size

    def drop(self, model: str) -> None:
        """Give up what a pull claimed."""
        with self._lock:
            self._held.pop(model, None)

    def sizes(self) -> dict[str, int]:
        """Return what all pulls claim; a file that two of them want counts once."""
        with self._lock:
            found: dict[str, int] = {}
            for key, size in (pair for held in self._held.values() for pair in held.items()):
                found[key] = max(size, found.get(key, 0))
            return found


def blob_key(sha256: str) -> str:
    """Return the name that a file with this hash has on its way and in the end."""
    return f"sha256-{sha256}"


def to_come(layout: Layout, sizes: Mapping[str, int], claimed: Mapping[str, int]) -> int:
    """Return how many bytes of these files are neither on the disk nor claimed."""
    return sum(max(0, size - max(_there(layout, key), claimed.get(key, 0))) for key, size in sizes.items())


def used(layout: Layout, reports: Iterable[ModelReport], claimed: Mapping[str, int]) -> int:
    """Return what models, content of none, claims, partial and quarantined files take together."""
    blobs = dict(_sizes(layout.blobs, "sha256-*"))
    taken = {blob_key(file.sha256): file.size for report in reports for file in report.files}
    for key, size in (*blobs.items(), *claimed.items()):
        taken[key] = max(size, taken.get(key, 0))
    beside = 0
    for name, size in _sizes(layout.partial, "*.part"):
        key = name.removesuffix(".part")
        if key in blobs:
            beside += size
        else:
            taken[key] = max(size, taken.get(key, 0))
    # Copies that this process makes are claimed under the name of their file.
    mine = f"draft-{os.getpid()}-"
    beside += sum(size for name, size in _sizes(layout.partial, "draft-*") if not name.startswith(mine))
    return sum(taken.values()) + beside + sum(size for _, size in _sizes(layout.quarantine, "*"))


def copied(layout: Layout) -> int:
    """Return the bytes that came of copies which this process makes, and which it claims whole."""
    return sum(size for _, size in _sizes(layout.partial, f"draft-{os.getpid()}-*.copy"))


def unnamed(layout: Layout, reports: Collection[ModelReport]) -> dict[str, int]:
    """Return the blobs, with their bytes, that none of these models names."""
    named = {blob_key(file.sha256) for report in reports for file in report.files}
    return {key: size for key, size in _sizes(layout.blobs, "sha256-*") if key not in named}


def leftovers(
    layout: Layout,
    reports: Collection[ModelReport],
    *,
    wanted: Collection[str],
    held: Collection[str],
    now: float,
) -> Iterator[tuple[Path, int]]:
    """Yield what may go before any model, with its bytes: quarantined files, then partial ones and blobs of nobody.

    `wanted` are names of models, `held` are files that pulls need, by the names that they have on their way.
    """
    for name, size in _sizes(layout.quarantine, "*"):
        yield layout.quarantine / name, size
    for name, size in _sizes(layout.partial, "*.part"):
        part = layout.partial / name
        if part.stem not in held and _is_abandoned(layout, part, wanted, now):
            yield part, size
    if not sweep.all_read(layout, reports):
        return
    for key, size in unnamed(layout, reports).items():
        if key not in held and _is_old(layout.blobs / key, now):
            yield layout.blobs / key, size


def _is_old(blob: Path, now: float) -> bool:
    try:
        return now - sweep.arrived(blob) >= ABANDONED_SECONDS
    except OSError:
        return False


def _is_abandoned(layout: Layout, part: Path, wanted: Collection[str], now: float) -> bool:
    beside = part.with_suffix(".json")
    try:
        resume = decode(beside.read_bytes(), Resume)
    except (OSError, msgspec.MsgspecError):
        # Nobody can go on with it, but somebody may just be about to say what it is.
        resume = None
    if resume is not None and resume.model in wanted:
        return False
    if now - max(_changed(part), _changed(beside)) < ABANDONED_SECONDS:
        return False
    with locks.tried(layout.locks / f"{part.stem}.lock") as free:
        return free


def _there(layout: Layout, key: str) -> int:
    for path in (layout.blobs / key, layout.partial / f"{key}.part"):
        with contextlib.suppress(OSError):
            return path.stat().st_size
    return 0


def _sizes(folder: Path, pattern: str) -> list[tuple[str, int]]:
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.name, path.lstat().st_size))
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
