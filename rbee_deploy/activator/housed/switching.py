"""Roles that stop or begin to be containers: what of them is left on the host."""

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from rbee_deploy.activator import units
from rbee_deploy.activator.housed import attended, podman
from rbee_deploy.activator.housed.role import ROLES, HousedRole
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

SLICE = "system.slice"
IDLE = ("inactive", "failed")
"""States of a unit that runs nothing, and does not try to."""


def let_queen_go(ways: Iterable[Generation], files: Iterable[str], *, at_once: bool = False) -> None:
    """Have a queen who may be in a container of Podman leave, unless she will be one by these files as well.

    Once systemd has read other unit files, nothing of them speaks of her container: it would wait for its streams, and
    then end what watches over it. Until `let_queen_come` she does not start again, which would be as what she was.
    Where Podman does not say what it runs that is an ActivationError, or `at_once` her unit is stopped all the same.
    """
    queen = ROLES["queen"]
    was = (file.path for way in ways for file in way.files)
    if _is_podmans(queen, was) and not _is_podmans(queen, files):
        if units.look([queen.unit])[queen.unit].active in IDLE:
            return
        try:
            left = podman.leave(queen, unit=podman.CGROUPS / SLICE / queen.unit)
        except ActivationError:
            if not at_once:
                raise
            left = False
        if not left:
            # As the unit that she is: what it will be knows no container. Nobody is served, so the socket goes as well,
            # which would start her again.
            units.systemctl("stop", "--", ports.QUEEN_SOCKET_UNIT, queen.unit)


def let_queen_come() -> None:
    """Have a queen that was let go start again, now that systemd has read what she is from now on."""
    podman.release(ROLES["queen"])


def forget(wanted: Generation, gone: Iterable[str]) -> None:
    """Remove what roles were handed that are in no container any more; `gone` are files of earlier generations."""
    left, files = set(gone), [file.path for file in wanted.files]
    played = {role.name for role in wanted.roles}
    for role in ROLES.values():
        if _is_podmans(role, left) and not _is_podmans(role, files):
            podman.forget(role)
            podman.environment(role).unlink(missing_ok=True)
        if wanted.engine not in attended.ENGINES or role.name not in played:
            attended.forget(role)
        if role.name not in played:
            # As systemd does with those of units that are no containers.
            shutil.rmtree(role.run, ignore_errors=True)
    with contextlib.suppress(OSError):
        ports.UNIT_RUN.rmdir()


def _is_podmans(role: HousedRole, files: Iterable[str]) -> bool:
    return any(Path(path).name == f"{role.container}.container" for path in files)
