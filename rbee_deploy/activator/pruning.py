"""Removing what no generation that can be gone back to needs, and no process uses."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rbee_deploy.activator import blobs, images, places, records, restoring
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.records import Good, State
from rbee_runtime import ports

KEPT = 3
"""Good generations that a rollback goes back to, one after another; further back is an upgrade to an old version."""


LEFT_SECONDS = 3600.0
"""An install takes a minute."""


def prune(*, keep: int, wanted: set[str]) -> list[str]:
    """Remove old generations, releases, engines and images, and return their names; `wanted` are engines that stay.

    Nothing is removed while an activation has not ended.
    """
    state = State.load()
    if state.undo or not state.current:
        return []
    steps = _newest(state, keep)
    replace(state, good=steps).save()
    good = list(dict.fromkeys([state.current, *(step.generation for step in steps)]))
    generations = [generation for generation in map(_loaded, good) if generation is not None]
    names = [path.stem for path in places.GENERATIONS.glob("*.json") if path.stem not in good]
    earlier = {name: found for name in names if (found := _loaded(name)) is not None}
    unneeded = images.named(earlier.values()) - images.named(generations)
    removed = images.remove(unneeded)
    # What some container still uses is tried again by the next run, which knows it by the generation that names it.
    in_use = {pair for pair in unneeded if pair[1] not in removed and images.is_there(*pair)}
    remembered = {name for name, found in earlier.items() if images.named([found]) & in_use}
    gone = [
        *_remove(places.GENERATIONS.glob("*.json"), {f"{name}.json" for name in (*good, *remembered)}),
        *_remove(places.DATABASES.glob("*.db"), {f"{name}.db" for name in good} | _kept_by_restores()),
        *_remove(_installed(ports.RELEASES), {item.release for item in generations} | _in_use(ports.RELEASES)),
        *_remove(_installed(ports.ENGINES), wanted | _named(generations) | _in_use(ports.ENGINES)),
    ]
    needed = [*generations, *(earlier[name] for name in remembered)]
    blobs.sweep(file.sha256 for generation in needed for file in generation.files)
    return [*gone, *removed]


def _installed(folder: Path) -> Iterator[Path]:
    """Yield what is installed in a folder, and what an install has left that ended long ago: one may still run."""
    for path in folder.glob("*/"):
        if not path.name.startswith(".") or time.time() - path.stat().st_mtime > LEFT_SECONDS:
            yield path


def _kept_by_restores() -> set[str]:
    """Return the copies that restores of a backup kept, the newest of them: the wrong backup may have been chosen."""
    copies = sorted(places.DATABASES.glob(restoring.KEPT), key=lambda path: path.stat().st_mtime)
    return {path.name for path in copies[-restoring.KEPT_COPIES :]}


def _newest(state: State, keep: int) -> tuple[Good, ...]:
    """Return the newest step of each of the newest releases and sets of images, the newest last."""
    last = dict(zip(records.switches(state.good), records.settled(state.good), strict=True))
    chosen: list[Good] = []
    for step in reversed(last.values()):
        # The second is where a rollback goes, also where an inventory has brought back what was before that.
        if len(chosen) < 2 or step.programs not in {other.programs for other in chosen}:
            chosen.append(step)
    return tuple(reversed(chosen[:keep]))


def _loaded(name: str) -> Generation | None:
    try:
        return records.load(name)
    except ValueError:
        return None


def _named(generations: list[Generation]) -> set[str]:
    """Return the engines that the configurations of these generations name."""
    texts = [
        blobs.read(file.sha256, secret=False).decode(errors="replace")
        for generation in generations
        for file in generation.files
        if not file.secret
    ]
    return {path.name for path in ports.ENGINES.glob("*/") if any(path.name in text for text in texts)}


def _in_use(folder: Path) -> set[str]:
    """Return the names in a folder that a process runs from, has open or was started with."""
    prefix = f"{folder}/"
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        for text in _mentions(process):
            used |= {re.split(r"[/\0\s]", part, maxsplit=1)[0] for part in text.split(prefix)[1:]}
    return used


def _mentions(process: Path) -> Iterator[str]:
    for name in ("cmdline", "maps"):
        try:
            yield (process / name).read_text(errors="replace")
        except OSError:
            continue


def _remove(paths: Iterator[Path], kept: set[str]) -> Iterator[str]:
    for path in paths:
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            # Its mark goes first: half a release never counts as one.
            for mark in ("release.json", "engine.json"):
                (path / mark).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        yield path.name
