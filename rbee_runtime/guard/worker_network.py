"""The network of workers' containers as a hive may have it made: without a way out but to those who call workers."""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.fields import Fields

MARK = "rbee.fleet"
"""The label of a network that a hive made, of whichever fleet."""


@dataclass(frozen=True)
class Subnet:
    """Addresses of a network, as the engine chose them."""

    subnet: str
    gateway: str


@dataclass(frozen=True)
class WorkerNetwork:
    """The network under the settings' name; `routes` are where answers may go. Without a subnet the engine chooses."""

    subnet: Subnet | None = None
    routes: tuple[str, ...] = ()


def read_owner(labels: Fields, config: GuardConfig) -> None:
    """Check that a network's labels name our fleet and say nothing else."""
    labels.same(MARK, config.fleet)
    labels.end()


def read_route(route: Fields, subnet: Subnet, config: GuardConfig) -> str:
    """Return where a route leads, which must be to callers."""
    destination = route.one_of("destination", config.callers)
    route.same("gateway", subnet.gateway)
    route.end()
    return destination


def differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of settings that are not as wanted; engines add some of their own, which do not matter."""
    return tuple(name for name, value in wanted.items() if found.get(name) != value)


def wide(destinations: Iterable[Any], config: GuardConfig) -> bool:
    """Say whether routes lead to more than callers and single addresses, which may be those of another hive."""
    return any(each not in config.callers and not _is_one_address(each) for each in destinations)


def _is_one_address(destination: Any) -> bool:
    try:
        return ipaddress.ip_network(str(destination), strict=False).num_addresses == 1
    except ValueError:
        return False
