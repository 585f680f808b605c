"""Waiting for a container that was asked to end."""

import time

from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.role import HousedRole

_POLL_SECONDS = 0.05


def let_go(engine: Engine, role: HousedRole, container: str, seconds: float) -> bool:
    """Wait until a container has let go of ports and state; False if it has ended, or does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not role.running_file.exists():
            return engine.runs(container)
        time.sleep(_POLL_SECONDS)
        if not engine.runs(container):
            return False
    return False
