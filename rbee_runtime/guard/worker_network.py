"""The network of workers' containers as a hive may have it made: without a way out but to those who call workers."""

from dataclasses import dataclass

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
