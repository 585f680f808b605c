"""Waiting for a container that was asked to end."""

import time

from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.role import HousedRole

_POLL_SECONDS = 0.05


def is_ready(role: HousedRole) -> bool:
    """Say whether a role's process has become ready and not let go: one that has not, may not hear a signal yet."""
    return role.running_file.exists()


def let_go(engine: Engine, role: HousedRole, container: str, seconds: float) -> bool:
    """Wait until a container that was ready has let go of ports and state; False if it has ended, or does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_ready(role):
            return engine.runs(container) is not False
        time.sleep(_POLL_SECONDS)
        if engine.runs(container) is False:
            return False
    return False
