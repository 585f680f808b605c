"""Made-up hosts on which checks of preflight speak or do not, and what is known of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rbee_deploy.preflight import Needs, Trust
from rbee_deploy.site import Host
from tests.unit.deploy.test_preflight import NEEDS, NOW

CARD = {"cards": ["0000:01:00.0"], "module": "570.133.20", "has_control": True, "libraries": ["570.133.20"]}
SPEC = {"path": "/var/run/cdi/nvidia.yaml", "mode": "644", "driver": "570.133.20"}
OLD_SPEC = {"path": "/etc/cdi/nvidia.yaml", "mode": "644", "driver": "550.54.14"}

UUID, OTHER_UUID = (f"GPU-5e1a0a10-0000-4000-8000-00000000000{number}" for number in (1, 2))
MIG = "MIG-5e1a0a10-0000-4000-8000-000000000003"
HOOK = "nvidia-container-runtime-hook"

CA = "/etc/rbee/credentials/ca.pem"
OURS = Trust("ours")
SOON = datetime.fromtimestamp(NOW, UTC) + timedelta(days=59)
LATER = SOON + timedelta(days=2)
OWN_SOON = datetime.fromtimestamp(NOW, UTC) + timedelta(days=13)
OTHER_AUTHORITY = (
    "it was deployed with another authority than the one in /home/me/secrets; have secrets_dir name the folder of "
    "secrets that it was deployed from, or copy that to /home/me/secrets; if it is lost, rbee-deploy apply "
    "--new-authority replaces the authority and every certificate"
)

GUARD = {"tool": True, "active": True, "broken": "", "also": [], "differs": []}
RULES = {"tool": True, "broken": "", "tables": []}


CACHE, NAS = "/home/me/.cache/huggingface", "/mnt/nas/models"
HOME_LABEL, NFS_LABEL = "unconfined_u:object_r:cache_home_t:s0", "system_u:object_r:nfs_t:s0"


def labelled(labels: dict[str, str], *switches: str, enforcing: bool = True) -> dict[str, Any]:
    """Return the facts of a host with SELinux."""
    return {"selinux": {"enforcing": enforcing, "labels": labels, "switches": list(switches)}}


def networks(backend: str, version: str, **programs: str) -> dict[str, Any]:
    """Return the facts of a host whose Podman says what makes its networks."""
    return {
        "programs": {"podman": "5.4.2", **programs},
        "engine": ["answers"],
        "networks": {"backend": backend, "version": version},
    }


def silent(*engines: str) -> dict[str, Any]:
    """Return the facts of a host whose `podman info` fails; it ran at these engines, "" is bare, the last is now."""
    steps = [{"generation": engine, "release": "r", "since": 1, "engine": engine} for engine in engines]
    return {**networks("", ""), "networks": None, "deploy": {"good": steps}}


def contained(declared: Host) -> Host:
    """Return the host with its workers in containers."""
    return replace(declared, worker_runtime="container")


def without_root(declared: Host) -> Host:
    """Return the host with its workers in containers of a Podman without root."""
    return replace(declared, worker_runtime="container", rootless=True)


def in_docker(declared: Host) -> Host:
    """Return the host with its workers in containers of Docker."""
    return replace(contained(declared), engine="docker")


def housed(declared: Host) -> Host:
    """Return the host with its hive in a container."""
    return replace(declared, mode="container")


def alike(declared: Host) -> Host:
    return declared


@dataclass(frozen=True)
class Trigger:
    """A host on which a check speaks: what is wrong with it, and how its sentence begins or what it says."""

    says: str
    facts: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Any] = field(default_factory=dict)
    changed: Callable[[Host], Host] = alike
    needs: Needs = NEEDS
    queen: dict[str, Any] = field(default_factory=dict)
    trust: Trust = OURS
    on_queen: bool = False
