"""The rules about what workers in containers may reach: put in force, and taken away with the last of them."""

import contextlib
import subprocess

from rbee_deploy.activator import units
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports
from rbee_runtime.worker_bridge import TABLES

NFT_SECONDS = 30.0


def load(*, stale: bool) -> None:
    """Have the unit put the rules in force, anew whether or not it has: somebody may have flushed them since.

    `stale` says that a file of it has changed. Raises ActivationError with what nft says.
    """
    active = units.look([ports.NETWORK_UNIT])[ports.NETWORK_UNIT].active == "active"
    # While it starts anew the guard starts no worker.
    verb = "reload" if active and not stale else "restart"
    try:
        units.systemctl(verb, "--", ports.NETWORK_UNIT)
    except ActivationError as error:
        lines = units.journal(ports.NETWORK_UNIT)
        raise ActivationError("\n".join((f"{ports.NETWORK_UNIT} failed; its last lines:", *lines))) from error


def remove() -> None:
    """Take the rules away; they are about a bridge that is not there any more, so one that stays harms nobody."""
    # A table has to be there to be deleted.
    script = "".join(f"table {table}\ndelete table {table}\n" for table in TABLES)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["nft", "-f", "-"], input=script, text=True, capture_output=True, check=False, timeout=NFT_SECONDS
        )
