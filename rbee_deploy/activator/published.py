"""Ports of this host that an engine which is lost still forwards to containers that are gone, where nobody answers.

Engines have rules for each port that they publish, Podman's own for nftables, and Docker's by iptables.
"""

import contextlib
import ipaddress
import json
import re
import shlex
import subprocess
from collections.abc import Collection, Iterator
from typing import Any

from rbee_runtime import worker_bridge

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SECONDS = 30.0
TABLES = ("iptables", "ip6tables")
_TO = re.compile(r"--to-destination \[?([0-9a-f.:]+?)\]?:[0-9]+(?:\s|$)")


def withdraw(network: str) -> None:
    """Delete the rules that forward to containers of a network, by the addresses of its bridge; others' stay.

    What cannot be read or deleted stays: the rest is no worse for it.
    """
    networks = tuple(_networks(worker_bridge.bridge_of(network)))
    if not networks:
        return
    for words in (*_of_nftables(networks), *_of_iptables(networks)):
        _run(*words)


def _networks(bridge: str) -> Iterator[Network]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        for link in json.loads(_run("ip", "-j", "addr", "show", "dev", bridge) or "[]"):
            for entry in link["addr_info"]:
                yield ipaddress.ip_network(f"{entry['local']}/{entry['prefixlen']}", strict=False)


def _of_nftables(networks: Collection[Network]) -> Iterator[tuple[str, ...]]:
    """Yield the commands that delete such rules of nftables."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        for entry in json.loads(_run("nft", "--json", "--handle", "list", "ruleset") or '{"nftables": []}')["nftables"]:
            rule: dict[str, Any] = entry.get("rule", {})
            targets = [part["dnat"].get("addr") for part in rule.get("expr", ()) if "dnat" in part]
            if any(isinstance(target, str) and _is_in(target, networks) for target in targets):
                yield (
                    *("nft", "delete", "rule", rule["family"], rule["table"], rule["chain"]),
                    *("handle", str(rule["handle"])),
                )


def _of_iptables(networks: Collection[Network]) -> Iterator[tuple[str, ...]]:
    """Yield the commands that delete such rules of iptables, which nftables cannot read."""
    for program in TABLES:
        for line in (_run(program, "--table", "nat", "--list-rules") or "").splitlines():
            found = _TO.search(line)
            if line.startswith("-A ") and found is not None and _is_in(found[1], networks):
                yield (program, "--table", "nat", "-D", *shlex.split(line)[1:])


def _is_in(address: str, networks: Collection[Network]) -> bool:
    try:
        return any(ipaddress.ip_address(address) in network for network in networks)
    except ValueError:
        return False


def _run(*words: str) -> str | None:
    """Return what a command prints, None where it could not do it."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
