"""One source of ports, paths, users and unit names, shared with the deployer."""

import os
from pathlib import Path

QUEEN_PORT = 8500
"""Client endpoint and admin API of the queen (also Consul's default HTTP port)."""

QUEEN_LINK_PORT = 8501
"""The queen's own listener for hives: mutual TLS only, so that the client endpoint can have any certificate or none."""

HIVE_PORT = 8600
"""The hive's API (also Consul's default DNS port)."""

WORKER_PORTS = (9000, 9099)
"""First and last port that a hive gives to workers."""

QUEEN_USER = "rbee-queen"
HIVE_USER = "rbee-hive"
WORKER_USER = "rbee-worker"
ENGINE_USER = "rbee-engine"
"""Who runs containers where Podman runs without root."""

MODELS_GROUP = "rbee-models"

QUEEN_SOCKET_UNIT = "rbee-queen.socket"
QUEEN_UNIT = "rbee-queen.service"
HIVE_UNIT = "rbee-hive.service"
WORKER_TEMPLATE = "rbee-worker@.service"
TARGET_UNIT = "rbee.target"
FIREWALL_UNIT = "rbee-firewall.service"
WORKERS_UNIT = "rbee-workers.service"
GUARD_SOCKET_UNIT = "rbee-guard.socket"
GUARD_UNIT = "rbee-guard.service"
PODMAN_UNIT = "rbee-podman.service"
"""Podman's API for the guard alone; Docker has a daemon of its own."""

NETWORK_UNIT = "rbee-network.service"
"""Puts in force what workers in containers may reach."""

QUEEN_QUADLET = "rbee-queen.container"
HIVE_QUADLET = "rbee-hive.container"
QUEEN_DROP_IN = f"{QUEEN_UNIT}.d/50-rbee.conf"
"""What Quadlet does not let its own file say."""

PREFIX = Path("/opt/rbee")
RELEASES = PREFIX / "releases"
ENGINES = PREFIX / "engines"
CURRENT = PREFIX / "current"

ETC = Path("/etc/rbee")
CREDENTIALS = ETC / "credentials"
STATE = Path("/var/lib/rbee")
QUEEN_STATE = STATE / "queen"
HIVE_STATE = STATE / "hive"
ENGINE_STATE = STATE / "engine"
"""The home of that user, with images and containers."""

MODELS = STATE / "models"
QUEEN_RUN = Path("/run/rbee-queen")
HIVE_RUN = Path("/run/rbee-hive")
NETWORK_RULES = ETC / "workers.nft"
NETWORK_RUN = Path("/run/rbee-network")
"""systemd makes and removes it with the unit of these rules."""

NETWORK_MARK = NETWORK_RUN / "in-force"
"""Is there as long as the rules are in force; while they are put there anew it is away."""

NETWORK_HOLDER = NETWORK_RUN / "holder"
"""Without root, the number of a process in the network that they are about."""

GUARD_RUN = Path("/run/rbee-guard")
GUARD_SOCKET = GUARD_RUN / "engine.sock"
PODMAN_RUN = Path("/run/rbee-podman")
PODMAN_SOCKET = PODMAN_RUN / "podman.sock"
HANDED = GUARD_RUN / "handed"
"""What the guard hands to workers in containers; one folder each."""

UNIT_RUN = Path("/run/rbee")
"""What units of containers make at each start, for root alone."""

RUNNING_FILE = "running.json"
"""Written by queen and hive into their run directory once ready: what really runs, for `/health` and the deployer."""


def worker_unit(worker_id: str) -> str:
    """Return the unit name of one worker."""
    return f"rbee-worker@{worker_id}.service"


def user_root() -> Path:
    """Return the folder that stands in for /var/lib/rbee on a machine without root."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "rbee"
