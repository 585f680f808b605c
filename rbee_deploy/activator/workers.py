"""Workers that nobody takes over: those of a way of running them that a host leaves."""

import shutil
from collections.abc import Iterable

from rbee_deploy.activator import engines, images, units, worker_rules
from rbee_deploy.activator.images import Guarded
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.undo import has_processes
from rbee_runtime import ports

WORKER_SECONDS = 215.0
"""A worker finishes its requests first, for at most the TimeoutStopSec of its unit, 195 s."""


def end(ways: Iterable[Generation], keeper: Generation | None) -> None:
    """End the workers that any of these generations may have started and that the hive of `keeper` would not know.

    The hive goes first, which would start them again. Raises ActivationError where an engine does not say what it runs.
    """
    earlier = tuple(ways)
    processes = any(map(has_processes, earlier)) and not has_processes(keeper)
    kept = images.guarded(keeper) if keeper is not None else None
    known = dict.fromkeys(found for found in map(images.guarded, earlier) if found is not None)
    contained = list({found.owner: found for found in known if kept is None or found.owner != kept.owner}.values())
    if processes or contained:
        _stop(ports.HIVE_UNIT)
    if processes:
        _stop(ports.WORKER_TEMPLATE.replace("@.", "@*."))
    for found in contained:
        _end_containers(found)


def forget() -> None:
    """Remove what was around workers in containers, once the host has none any more: rules, and the guard's folder."""
    worker_rules.remove()
    shutil.rmtree(ports.GUARD_RUN, ignore_errors=True)


def _stop(name: str) -> None:
    # A pattern that nothing matches is nothing to stop; a unit that is not there is a mistake to systemd.
    if "*" in name or units.look([name])[name].load != "not-found":
        units.systemctl("stop", "--", name, seconds=WORKER_SECONDS)


def _end_containers(found: Guarded) -> None:
    images.end(found, seconds=WORKER_SECONDS)
    if found.engine == engines.PODMAN:
        worker_rules.shut()
