"""The systemd-nspawn command of a host. Pure."""

import os
from collections.abc import Iterable
from pathlib import Path

from tests.lab.records import Bind, HostRecord

# Container engines need both: crun makes a session keyring, Podman and systemd load BPF programs.
SYSTEM_CALLS = "@keyring bpf"


def nspawn_argv(record: HostRecord, bridge: str, directory: Path, binds: Iterable[Bind]) -> list[str]:
    """Return the command that boots a host."""
    return [
        "systemd-nspawn",
        f"--directory={directory}/root",
        f"--machine={record.machine}",
        f"--hostname={record.name}",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--capability=all",
        f"--system-call-filter={SYSTEM_CALLS}",
        f"--network-bridge={bridge}",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        *(bind_option(bind) for bind in binds),
    ]


def nspawn_environment() -> dict[str, str]:
    """Return the environment of that command.

    systemd 256 and later refuse the hybrid hierarchy, so every host gets the unified one, whatever this machine has.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}


def bind_option(bind: Bind) -> str:
    """Return the option for one bind mount."""
    flag = "--bind-ro" if bind.read_only else "--bind"
    return f"{flag}={_escaped(bind.source)}:{_escaped(bind.target)}"


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")
