"""The rules about what workers in containers may reach: put in force, and taken away with the last of them."""

import contextlib
import subprocess

from rbee_deploy.activator import units
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports
from rbee_runtime.worker_bridge import NETWORK, TABLES, bridge_of

NFT_SECONDS = 30.0

BRIDGE = bridge_of(NETWORK)
THROUGH = (f"-o {BRIDGE}", f"-i {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED")
"""What is forwarded for workers, as iptables has it: calls to them, and their answers."""


_BOTH = "{ command -v dockerd && command -v iptables; } >/dev/null"
"""A Docker without that program forwards by other means, and has no such chain."""


def let_through() -> str:
    """Return the script by which a Docker beside Podman forwards for Podman's workers.

    A Docker that was there first drops all that it does not forward itself, and no rule of another table overrules
    that. Its chain of users comes before; it never empties it, and takes one that is there before it is. It ends as
    iptables does, and with its words.
    """
    wanted = " && ".join(f"{{ {_has(what)} || iptables -w 5 -I DOCKER-USER {what} -j ACCEPT; }}" for what in THROUGH)
    return f"{_BOTH} || exit 0; iptables -w 5 -N DOCKER-USER 2>/dev/null; {wanted}"


def is_let_through() -> str:
    """Return the script that ends with 0 where a Docker of the host lets workers through, or asks its chain of nothing.

    One that is not in use, and an iptables that does not work, keep nothing from workers.
    """
    asked = "iptables -w 5 -C FORWARD -j DOCKER-USER 2>/dev/null"
    return f"! {_BOTH} || ! {asked} || {{ {' && '.join(map(_has, THROUGH))}; }}"


def _has(what: str) -> str:
    return f"iptables -w 5 -C DOCKER-USER {what} -j ACCEPT 2>/dev/null"


def shut_again() -> str:
    """Return the script that takes this back; where there is nothing of it, or no iptables, it does nothing."""
    return "; ".join((*(f"iptables -w 5 -D DOCKER-USER {what} -j ACCEPT 2>/dev/null" for what in THROUGH), "true"))


def shut() -> None:
    """Have a Docker of this host forward nothing more for workers of a Podman that has none any more."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["sh", "-c", shut_again()], capture_output=True, check=False, timeout=NFT_SECONDS)


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
    shut()
