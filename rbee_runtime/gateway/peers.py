"""How many connections each client's machine has, so that none takes all that this process may have open."""

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Any

from rbee_runtime import logs
from rbee_runtime.errors import RequestError

SITE = 56
"""Bits of an IPv6 address that name who has it: of what is behind them a site is given all, as a rule (RFC 6177)."""

TELL_SECONDS = 60.0
"""Between two lines about refused connections."""


class Peers:
    """Counts connections by whose they are; `most` for one of them, and `clock` in seconds."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._quiet_until = 0.0

    def enter(self, peer: str) -> bool:
        """Count one more connection, or say that there are too many."""
        if self._open[peer] >= self._most:
            self._tell(peer)
            return False
        self._open[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """Count one connection less."""
        self._open[peer] -= 1
        if self._open[peer] <= 0:
            del self._open[peer]

    def _tell(self, peer: str) -> None:
        """Write a line, but not one for each of thousands."""
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + TELL_SECONDS
            logs.warning("connections refused", peer=peer, open=self._open[peer])


def peer_of(address: Any) -> str:
    """Return whose a socket's peer address is: an IPv4 address, or the network of an IPv6 one; "" on local sockets."""
    if not isinstance(address, tuple):
        return ""
    found = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(found), SITE), strict=False))
        found = found.ipv4_mapped
    return str(found)


def too_many() -> RequestError:
    """Return what a client hears on a connection that is one too many."""
    return RequestError(
        429,
        "this machine has too many connections to the queen; close some, or use them for several requests",
        kind="rate_limit_error",
        code="too_many_connections",
        retry_after=1,
    )
