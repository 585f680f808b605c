"""What inventories/lab.py reads of a lab: hosts, addresses and how SSH enters."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee_deploy.errors import InventoryError
from rbee_deploy.model_files import lab_model
from tests.lab.places import labs_root
from tests.lab.recipes import SSH_USER
from tests.lab.records import LabRecord, load

LAB_VARIABLE = "RBEE_LAB"
MODEL_VARIABLE = "RBEE_LAB_MODEL"
DEMO = "demo"


@dataclass(frozen=True)
class LabInventory:
    """A lab as an inventory sees it; `addresses` by host name, the queen's first."""

    directory: Path
    addresses: dict[str, str]

    @property
    def ssh(self) -> dict[str, Any]:
        """Return the SSH fields of every host: a user with sudo, the lab's key, and no unknown host key."""
        return {
            "ssh_user": SSH_USER,
            "ssh_key": self.directory / "id_ed25519",
            "ssh_known_hosts_file": self.directory / "known_hosts",
            "ssh_host_keys": "strict",
        }

    @property
    def queen_address(self) -> str:
        """Return the first host's address."""
        return next(iter(self.addresses.values()))

    @property
    def gpu_hosts(self) -> tuple[str, ...]:
        """Return every host but the first."""
        return tuple(self.addresses)[1:]

    @property
    def secrets_dir(self) -> Path:
        """Return where the fleet's secrets go: they vanish with the lab."""
        return self.directory / "secrets"

    @property
    def model_file(self) -> Path:
        """Return the model to serve: the caller's own, else the lab's small one."""
        given = os.environ.get(MODEL_VARIABLE)
        return Path(given).absolute() if given else lab_model()


def the_lab() -> LabInventory:
    """Return the lab in RBEE_LAB (a name, a folder or its lab.json), else the demo's."""
    given = os.environ.get(LAB_VARIABLE)
    directory = _folder(given) if given else _demo_folder()
    record = load(directory)
    if record is None or not record.hosts:
        raise InventoryError(
            f"{directory} holds no lab with hosts; run make demo, or set {LAB_VARIABLE} to a lab's name"
        )
    return LabInventory(directory, {host.name: host.address for host in record.hosts})


def _folder(given: str) -> Path:
    if "/" not in given:
        return labs_root() / given
    path = Path(given).absolute()
    return path.parent if path.suffix == ".json" else path


def _demo_folder() -> Path:
    root = labs_root()
    folders = sorted(root.iterdir()) if root.is_dir() else []
    found = next((folder for folder in folders if _is_demo(load(folder))), None)
    if found is None:
        raise InventoryError(
            f"there is no demo lab on this machine; run make demo, or set {LAB_VARIABLE} to a lab's name"
        )
    return found


def _is_demo(record: LabRecord | None) -> bool:
    return record is not None and record.label == DEMO and record.persistent
