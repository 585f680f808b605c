"""What generations of this host have at its engine of containers: images, and the containers of workers."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.activator import blobs, engines
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.units import ActivationError

GUARD = "guard.json"
"""Names the engine of containers, the hive and every image that it may start."""

NAMES = '{{join .RepoTags " "}} {{join .RepoDigests " "}}'
OURS, DIGEST = "localhost/rbee-", "@sha256:"
"""Of the names of an image, those that a deploy gave it; any other is somebody else's, and keeps it."""

COMMAND_SECONDS = 60.0
DRAIN_SECONDS = 195
"""As the containers have it."""


@dataclass(frozen=True)
class Guarded:
    """What a generation lets its hive have at an engine: images by id, containers by its labels, a network."""

    engine: str
    fleet: str
    hive: str
    network: str
    images: tuple[str, ...]

    @property
    def owner(self) -> tuple[str, str, str]:
        """Return what has to be the same for a hive to take over containers."""
        return self.engine, self.fleet, self.hive


def guarded(generation: Generation) -> Guarded | None:
    """Return it, or None for a generation without containers, or one whose file cannot be read."""
    sha256 = next((file.sha256 for file in generation.files if Path(file.path).name == GUARD), None)
    if sha256 is None:
        return None
    try:
        known = json.loads(blobs.read(sha256, secret=False))
        engine, fleet, hive, network = (str(known[name]) for name in ("engine", "fleet", "hive", "network"))
        engine = engines.ROOTLESS if known.get("engine_user") else engine
        return Guarded(engine, fleet, hive, network, tuple(known["images"]))
    except (ValueError, KeyError, TypeError, OSError):
        return None


def named(generations: Iterable[Generation]) -> set[tuple[str, str]]:
    """Return engine and id of every image that these name."""
    return {pair for generation in generations for pair in _of(generation)}


def _of(generation: Generation) -> list[tuple[str, str]]:
    if generation.images:
        return [(generation.engine, image) for image in generation.images]
    # Generations of before say it in the guard's settings only.
    known = guarded(generation)
    return [(known.engine, image) for image in known.images] if known is not None else []


def engine_of(generation: Generation) -> str:
    """Return the engine of a generation's containers, "" where it has none."""
    known = guarded(generation) if not generation.engine else None
    return known.engine if known is not None else generation.engine


def answers(engine: str) -> bool:
    """Say whether an engine says what it runs."""
    return _status(engine, "ps", "--quiet") == 0


def missing(generation: Generation) -> list[str]:
    """Return the images that a generation names and the host has not; an engine that is away misses none."""
    wanted = _of(generation)
    if not wanted or not answers(wanted[0][0]):
        return []
    return [image for engine, image in wanted if _status(engine, "image", "inspect", image) or 0]


def remove(unneeded: Iterable[tuple[str, str]]) -> list[str]:
    """Have engines remove images, but for those that some container uses, and return the ids of what went."""
    return [image for engine, image in sorted(unneeded) if _remove(engine, image)]


def _remove(engine: str, image: str) -> bool:
    """Remove an image; one that was pulled has a name by its digest as well as ours, and goes with its last."""
    if _status(engine, "image", "rm", image) == 0:
        return True
    said = _run(engine, "image", "inspect", "--format", NAMES, image)
    names = said.stdout.split() if said is not None and said.returncode == 0 else []
    for name in names:
        if name.startswith(OURS) or DIGEST in name:
            _run(engine, "image", "rm", name)
    return bool(names) and _status(engine, "image", "inspect", image) not in {0, None}


def is_there(engine: str, image: str) -> bool:
    """Say whether an engine has an image; one that does not answer may have it."""
    if shutil.which(engines.program(engine)) is None:
        return False
    return not answers(engine) or _status(engine, "image", "inspect", image) == 0


def end(known: Guarded, *, seconds: float) -> None:
    """End and remove the containers of a hive, each after its requests, and their network; ActivationError."""
    found = _containers(known)
    if found:
        # By the engine itself: guard and settings may be those of another generation already.
        _run(known.engine, "stop", f"--time={DRAIN_SECONDS}", *found, seconds=seconds)
        _run(known.engine, "rm", "--force", "--volumes", *found)
        if _containers(known):
            raise ActivationError(
                f"{known.engine} did not remove the containers of this host's workers: see `{known.engine} ps --all`"
            )
    # Refused where somebody else's containers are in it.
    _run(known.engine, "network", "rm", known.network)


def _containers(known: Guarded) -> list[str]:
    filters = (f"--filter=label=rbee.{name}={value}" for name, value in (("fleet", known.fleet), ("hive", known.hive)))
    said = _run(known.engine, "ps", "--all", "--quiet", *filters)
    if said is None or said.returncode != 0:
        raise ActivationError(
            f"{known.engine} does not say which workers of this host are its containers: start it, so that they can "
            "end, and run the same command again"
        )
    return said.stdout.split()


def _status(engine: str, *words: str) -> int | None:
    done = _run(engine, *words)
    return None if done is None else done.returncode


def _run(engine: str, *words: str, seconds: float = COMMAND_SECONDS) -> "subprocess.CompletedProcess[str] | None":
    """Run the engine's own command; None where it could not be run."""
    try:
        return subprocess.run(
            [*engines.command(engine), *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
