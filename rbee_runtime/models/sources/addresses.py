"""Which addresses a download may connect to: those of the public internet, or any of a host that the settings name."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

import httpcore
from httpcore import SOCKET_OPTION

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources import TransientError

CONNECT_SECONDS = 10.0

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""From host name and port to addresses."""

_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of `host`; OSError if it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Say whether an address is one of the public internet, also when it carries another address inside."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _carried(parsed)
    if inner is not None:
        return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _carried(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address is a form of: mapped, compatible, 6to4, Teredo or NAT64."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if any(address in network for network in _NAT64) or int(address) >> 32 == 0:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SITE_LOCAL:
        return ipaddress.IPv4Address(0)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo is not None else None)


def is_named(host: str, port: int, names: Iterable[str]) -> bool:
    """Say whether the settings name this host (`name` or `name:port`)."""
    bare = host.strip("[]").lower().rstrip(".")
    shown = f"[{bare}]" if ":" in bare else bare
    return any(name.lower() in {bare, shown, f"{shown}:{port}"} for name in names)


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, and connects to an address that was checked, never to the name again."""

    def __init__(self, named: Sequence[str], resolver: Resolver = resolve) -> None:
        self._named = named
        self._resolver = resolver
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first permitted address of `host` that answers."""
        addresses = await self.permitted(host, port)
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if last == 0:
                    raise
        raise TransientError(f"{host} has no address")

    async def permitted(self, host: str, port: int) -> list[str]:
        """Return the addresses of `host` that may be connected to, or raise ModelStoreError."""
        try:
            found = await asyncio.wait_for(self._resolver(host, port), CONNECT_SECONDS)
        except (OSError, UnicodeError) as error:
            raise TransientError(f"cannot find the address of {host}: {error}") from error
        if is_named(host, port, self._named):
            return list(found)
        permitted = [address for address in found if is_public(address)]
        if found and not permitted:
            raise ModelStoreError(
                f"{host} is at {found[0]}, which is not an address of the public internet; "
                "if models shall come from there, name the host in plain_http_hosts of the store's settings"
            )
        return permitted
