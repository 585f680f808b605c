"""Which port a worker gets: its old one if it is free, else the first free one of the range."""

import socket
from collections.abc import Callable, Container

from rbee_runtime.errors import PortsTakenError

FreeTest = Callable[[str, int], bool]


def is_free(host: str, port: int) -> bool:
    """Say whether `port` can be listened on right now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # As the worker does: a connection that lingers from the last run is no obstacle.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def choose(
    host: str,
    bounds: tuple[int, int],
    *,
    taken: Container[int],
    previous: int = 0,
    refused: int = 0,
    free: FreeTest = is_free,
) -> int:
    """Return a port within `bounds` that no other worker has; `refused` is one that just failed.

    Raises PortsTakenError when none is left.
    """
    first, last = bounds
    order = [previous] if first <= previous <= last else []
    order += [port for port in range(first, last + 1) if port != previous]
    for port in order:
        if port not in taken and port != refused and free(host, port):
            return port
    raise PortsTakenError(f"no free port for a worker in {first}-{last} on {host}; widen worker_ports in the inventory")
