"""How the workers' network appears on its host, by which its rules know it: bridge, addresses of cards, tables. Pure.

Launchers and guard both say it to engines, and the deployer to nftables. The standard library alone, as the guard.
"""

import hashlib

NETWORK = "rbee-workers"
"""What the network is called unless a hive's settings say otherwise."""

MOST_CHARACTERS = 15
"""Of an interface's name, as Linux has it."""

MAC_PREFIX = "02:72:62"
"""Of addresses that nobody else gives: 02 is for local ones, the rest our own choice."""

NO_RESOLVER = "192.0.2.1"
"""Nobody's (RFC 5737), and asked from within the container. Those of the host Docker would ask in the host's own
network, which no rule about workers sees: a way out."""

TABLES = ("inet rbee-workers", "bridge rbee-workers")
"""Of nftables, family and name: the first keeps workers from hosts, the second from each other."""


def bridge_of(network: str) -> str:
    """Return the name of a network's bridge: its own where that is short enough, else one that is made of it."""
    if len(network) <= MOST_CHARACTERS:
        return network
    digest = hashlib.sha256(network.encode()).hexdigest()
    return f"{network[:7]}-{digest[:7]}"


def mac_of(worker: str) -> str:
    """Return the address of the card of a worker's container."""
    return ":".join((MAC_PREFIX, *(f"{byte:02x}" for byte in hashlib.sha256(worker.encode()).digest()[:3])))
