"""A bridge per lab, in a subnet that nothing else on this machine uses."""

import json
import random
import shutil
from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from tests.lab.commands import output, succeeds
from tests.lab.errors import LabError

# A route wider than this is a company's or a VPN's; a more specific one of ours inside it does no harm.
WIDEST_RESPECTED_PREFIX = 12
ATTEMPTS = 200
NETWORKD = Path("/run/systemd/network")
NETWORK_MANAGER = Path("/run/NetworkManager")


def free_subnet(taken: Iterable[IPv4Network], rng: random.Random) -> IPv4Network:
    """Choose a 10.x.y.0/24 that overlaps none of the taken networks."""
    respected = [network for network in taken if network.prefixlen >= WIDEST_RESPECTED_PREFIX]
    for _ in range(ATTEMPTS):
        candidate = IPv4Network(f"10.{rng.randrange(32, 224)}.{rng.randrange(256)}.0/24")
        if not any(candidate.overlaps(network) for network in respected):
            return candidate
    raise LabError("no free 10.x.y.0/24 was found for the lab: see ip route for what takes them")


def networks_in_use() -> list[IPv4Network]:
    """Return what this machine routes or resolves names at."""
    routes = json.loads(output(("ip", "-json", "-4", "route", "show", "table", "all")) or "[]")
    named = [route["dst"] for route in routes if route.get("dst") not in (None, "default")]
    resolver = Path("/etc/resolv.conf")
    lines = [line.split() for line in resolver.read_text().splitlines()] if resolver.exists() else []
    servers = [words[1] for words in lines if words[:1] == ["nameserver"] and ":" not in words[1]]
    found = (ip_network(name, strict=False) for name in [*named, *servers])
    return [network for network in found if isinstance(network, IPv4Network)]


def create_bridge(name: str, subnet: IPv4Network) -> None:
    """Make the lab's bridge; this machine is the first address of the subnet."""
    _keep_network_managers_off(name)
    output(("ip", "link", "add", name, "type", "bridge", "forward_delay", "0"))
    output(("ip", "link", "set", name, "addrgenmode", "none"))
    output(("ip", "address", "add", f"{subnet[1]}/{subnet.prefixlen}", "dev", name))
    output(("ip", "link", "set", name, "up"))
    _let_bridged_traffic_pass(name)


def remove_bridge(name: str) -> None:
    """Remove the bridge and all that belongs to it; harmless if parts are gone already."""
    for link in [*_members(name), name]:
        if link_exists(link):
            succeeds(("ip", "link", "delete", link))
    for rule in _forward_rules(name):
        if shutil.which("iptables") is not None:
            succeeds(("iptables", "--wait", "--delete", *rule))
    for file in (NETWORKD / f"05-{name}.network", NETWORK_MANAGER / "conf.d" / f"{name}.conf"):
        file.unlink(missing_ok=True)


def set_link(name: str, state: str) -> None:
    """Set a network link `up` or `down`."""
    output(("ip", "link", "set", name, state))


def link_exists(name: str) -> bool:
    """Say whether this machine has a network link of that name."""
    return Path("/sys/class/net", name).exists()


def _members(bridge: str) -> list[str]:
    return [link.name for link in Path("/sys/class/net").glob(f"vb-{bridge}-*")]


def _keep_network_managers_off(bridge: str) -> None:
    """Tell systemd-networkd and NetworkManager, where they run, that these links are not theirs."""
    names = f"{bridge} vb-{bridge}-*"
    if Path("/run/systemd/netif").is_dir() and shutil.which("networkctl") is not None:
        NETWORKD.mkdir(parents=True, exist_ok=True)
        (NETWORKD / f"05-{bridge}.network").write_text(f"[Match]\nName={names}\n\n[Link]\nUnmanaged=yes\n")
        succeeds(("networkctl", "reload"))
    if NETWORK_MANAGER.is_dir():
        (NETWORK_MANAGER / "conf.d").mkdir(exist_ok=True)
        devices = ";".join(f"interface-name:{name}" for name in names.split())
        (NETWORK_MANAGER / "conf.d" / f"{bridge}.conf").write_text(f"[keyfile]\nunmanaged-devices+={devices}\n")
        succeeds(("nmcli", "general", "reload", "conf"))


def _let_bridged_traffic_pass(bridge: str) -> None:
    """Docker sets the forward policy to drop, which also cuts traffic between the ports of a bridge."""
    if shutil.which("iptables") is None or not succeeds(("iptables", "--wait", "--list-rules", "FORWARD")):
        return
    if "-P FORWARD DROP" in output(("iptables", "--wait", "--list-rules", "FORWARD")):
        for rule in _forward_rules(bridge):
            output(("iptables", "--wait", "--insert", *rule))


def _forward_rules(bridge: str) -> list[tuple[str, ...]]:
    return [("FORWARD", flag, bridge, "--jump", "ACCEPT") for flag in ("--in-interface", "--out-interface")]
