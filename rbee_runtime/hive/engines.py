"""Engine artefacts on this host: `<engines_dir>/<name>-…/engine.json`; the newest version of a name wins."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rbee_runtime.protocol import Message

BUILT_IN = "fake"
"""Comes with the release and needs no artefact."""


class EngineManifest(Message, frozen=True, kw_only=True):
    """What the hive reads of `engine.json`; the rest is the worker's."""

    name: str
    version: str


def installed(engines_dir: Path) -> Mapping[str, Path | None]:
    """Return the folder of each engine that can be started here, by name; None for a built-in one."""
    found: dict[str, tuple[tuple[int, ...], str, Path]] = {}
    for path in sorted(engines_dir.glob("*/engine.json")):
        manifest = _read(path)
        if manifest is not None:
            rank = (_version(manifest.version), path.parent.name, path.parent)
            found[manifest.name] = max(rank, found.get(manifest.name, rank))
    return {BUILT_IN: None, **{name: rank[2] for name, rank in sorted(found.items())}}


def _read(path: Path) -> EngineManifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineManifest)
    except (OSError, msgspec.MsgspecError):
        return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
