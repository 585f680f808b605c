"""Who has to reach which port of a host: the rules of its firewall, worked out from the fleet; pure."""

import ipaddress
from collections.abc import Iterable, Iterator

from rbee_deploy.activator.firewall.rules import Kind, Rule, Rules
from rbee_deploy.site import Host, Site


def rules(site: Site, host: Host) -> Rules | None:
    """Return the rules of a host, None where the inventory asks for no firewall.

    Clients reach the queen where the inventory says; hives reach her link, and each other to copy models. Workers are
    for the queen alone: she relays every request to them.
    """
    if host.firewall is None:
        return None
    queen, hives = ([one for one in group if one != host] for group in ([site.queen], site.hives))
    found: list[Rule] = []
    if host.queen:
        found.append(_rule(host.queen_port, host.queen_port, None if site.clients is None else site.clients))
        found.append(_rule(host.link_port, host.link_port, _addresses(hives)))
    if host.hive:
        found.append(_rule(host.hive_port, host.hive_port, _addresses([*queen, *hives])))
        found.append(_rule(*host.worker_ports, _addresses(queen)))
    return Rules(Kind(host.firewall), tuple(found))


def addresses(host: Host) -> tuple[str, ...]:
    """Return the addresses from which a host may speak, as far as the inventory has them as numbers."""
    given = dict.fromkeys(known for known in (host.reach, host.ssh_address) if _number(known) is not None)
    return tuple(given)


def family(text: str) -> str | None:
    """Return what kind of address it is, None for a name."""
    number = _number(text)
    return None if number is None else f"IPv{number.version}"


def _addresses(hosts: Iterable[Host]) -> list[str]:
    return [address for host in hosts for address in addresses(host)]


def _number(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    # fe80::1%eth0 means something on one host alone.
    return None if getattr(found, "scope_id", None) else found


def _rule(first: int, last: int, sources: Iterable[str] | None) -> Rule:
    return Rule(first, last, None if sources is None else tuple(_plain(sources)))


def _plain(sources: Iterable[str]) -> Iterator[str]:
    """Yield networks that do not overlap in one order, a single address as such."""
    networks = sorted(
        set(map(ipaddress.ip_network, sources)), key=lambda one: (one.version, int(one[0]), one.prefixlen)
    )
    last = None
    for network in networks:
        # The wider of two that overlap comes first, and two networks overlap only as a whole.
        if last is None or network.version != last.version or network[0] not in last:
            last = network
            yield str(network[0]) if network.prefixlen == network.max_prefixlen else str(network)
