"""What generations of this host have at its engine of containers: images, and the containers of workers."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.activator import blobs
from rbee_deploy.activator.manifest import Generation

GUARD = "guard.json"
"""Names the engine of containers, the hive and every image that it may start."""

COMMAND_SECONDS = 60.0


@dataclass(frozen=True)
class Guarded:
    """What a generation lets its hive have at an engine: images by id, containers by its labels, a network."""

    engine: str
    fleet: str
    hive: str
    network: str
    images: tuple[str, ...]


def guarded(generation: Generation) -> Guarded | None:
    """Return it, or None for a generation without containers, or one whose file cannot be read."""
    sha256 = next((file.sha256 for file in generation.files if Path(file.path).name == GUARD), None)
    if sha256 is None:
        return None
    try:
        known = json.loads(blobs.read(sha256, secret=False))
        engine, fleet, hive, network = (str(known[name]) for name in ("engine", "fleet", "hive", "network"))
        return Guarded(engine, fleet, hive, network, tuple(known["images"]))
    except (ValueError, KeyError, TypeError, OSError):
        return None


def named(generations: Iterable[Generation]) -> set[tuple[str, str]]:
    """Return engine and id of every image that these name."""
    known = (found for found in map(guarded, generations) if found is not None)
    return {(each.engine, image) for each in known for image in each.images}


def missing(generation: Generation) -> list[str]:
    """Return the images that a generation names and the host has not; what cannot be asked is not called missing."""
    return [image for engine, image in sorted(named([generation])) if _status(engine, "image", "inspect", image) or 0]


def remove(unneeded: Iterable[tuple[str, str]]) -> list[str]:
    """Have engines remove images, but for those that some container uses, and return the ids of what went."""
    return [image for engine, image in sorted(unneeded) if _status(engine, "image", "rm", image) == 0]


def clear(generation: Generation) -> None:
    """Remove the containers of a generation's hive, which have ended, and their network: no hive will do it."""
    known = guarded(generation)
    if known is None:
        return
    filters = (f"--filter=label=rbee.{name}={value}" for name, value in (("fleet", known.fleet), ("hive", known.hive)))
    ended = _run(known.engine, "ps", "--all", "--quiet", *filters)
    if ended is not None and ended.stdout.split():
        _run(known.engine, "rm", "--volumes", *ended.stdout.split())
    # Refused where somebody else's containers are in it.
    _run(known.engine, "network", "rm", known.network)


def _status(engine: str, *words: str) -> int | None:
    done = _run(engine, *words)
    return None if done is None else done.returncode


def _run(engine: str, *words: str) -> "subprocess.CompletedProcess[str] | None":
    """Run the engine's own command; None where it could not be run."""
    try:
        return subprocess.run(
            [engine, *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
