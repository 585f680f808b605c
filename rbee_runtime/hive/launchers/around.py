"""From a hive's settings to its launcher of containers; whom a worker may answer is worked out here."""

import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from rbee_runtime import worker_limits
from rbee_runtime.config import HiveConfig
from rbee_runtime.hive.launchers import identity
from rbee_runtime.hive.launchers.containers import Owner
from rbee_runtime.hive.launchers.engine import ContainerLauncher, Engine, Surroundings

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
"""RFC 1918, and RFC 6598 that overlay networks use: where the queen of a private fleet is."""


def launcher(config: HiveConfig) -> ContainerLauncher:
    """Return the launcher for the engine that the settings name; it connects at its first use."""
    return ContainerLauncher(_connector(config), surroundings(config))


def surroundings(config: HiveConfig) -> Surroundings:
    """Return what containers need to know of the hive."""
    return Surroundings(
        owner=Owner(config.fleet, config.name, identity.boot_id()),
        settings=config.containers.model_copy(
            update={"memory_limit": worker_limits.memory(config.containers.memory_limit)}
        ),
        folder=config.state_dir / "containers",
        readable=(config.models_dir,),
        callers=callers(config),
    )


def callers(config: HiveConfig) -> tuple[str, ...]:
    """Return the networks that a worker answers: private ones, and queen and hive where they have public addresses."""
    named = (config.address, config.advertise, urlsplit(config.queen_url).hostname or "")
    private = [ipaddress.ip_network(each) for each in PRIVATE]
    public = []
    for name in named:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            continue
        known = any(address in network for network in private)
        if address.version == 4 and not known and not address.is_loopback and not address.is_unspecified:
            public.append(f"{address}/32")
    return (*PRIVATE, *dict.fromkeys(public))


def own_address(config: HiveConfig) -> str:
    """Return the address of this host under which it asks its own workers, "" for loopback.

    What Docker publishes answers on loopback only as long as its daemon runs; on other addresses the kernel does it.
    """
    try:
        if config.launcher != "docker" or ipaddress.ip_address(config.advertise).version != 4:
            return ""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            # Sends nothing; it is our side of the way there, which is ours even where `advertise` is a router's.
            asked.connect((config.advertise, config.port))
            address: str = asked.getsockname()[0]
    except (OSError, ValueError):
        return ""
    return address


def _connector(config: HiveConfig) -> Callable[[], Engine]:
    place = config.containers.socket

    def connect() -> Engine:
        if config.launcher == "docker":
            from rbee_runtime.hive.launchers.docker import Docker  # noqa: PLC0415 - a second and a half of imports

            return Docker(place)
        from rbee_runtime.hive.launchers.podman import Podman  # noqa: PLC0415 - half a second of imports

        return Podman(place)

    return connect
