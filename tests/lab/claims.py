"""Claim what must be unique on this machine: a lab's name and subnet, a host's number."""

import random
import re
import secrets
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.network import free_subnet, link_exists, networks_in_use
from tests.lab.places import labs_root
from tests.lab.records import HostRecord, LabRecord, Owner, load

# Nothing that is not named like this is ever removed: the folder of all labs may be shared with other things.
NAME = re.compile(r"rbl[0-9a-f]{4}")
# .1 is this machine, .255 is broadcast.
MOST_HOSTS = 253


def claim_lab(label: str, *, persistent: bool) -> Path:
    """Make the folder and the record of a new lab; the caller holds the registry lock."""
    subnet = free_subnet([*networks_in_use(), *_claimed_subnets()], random.Random())
    directory = _new_folder()
    record = LabRecord(
        name=directory.name,
        label=label,
        subnet=str(subnet),
        gateway=str(subnet[1]),
        owner=Owner.this_process(),
        persistent=persistent,
    )
    record.save(directory)
    return directory


def is_stale(directory: Path) -> bool:
    """Say whether a folder is what an interrupted run left; the caller holds the registry lock."""
    if not NAME.fullmatch(directory.name):
        return False
    record = load(directory)
    return record is None or record.is_stale


def check_host_name(name: str) -> None:
    """Raise LabError if no host can be called so."""
    if not name.replace("-", "a").isalnum() or len(name) > 63:
        raise LabError(f"{name!r} is no host name: use up to 63 letters, digits and hyphens")


def claim_host(lab: LabRecord, draft: HostRecord) -> HostRecord:
    """Give a new host its number, which is in its machine name, its link and its address."""
    check_host_name(draft.name)
    if draft.name in {host.name for host in lab.hosts}:
        raise LabError(f"lab {lab.name} has a host called {draft.name} already: choose another name")
    used = {host.machine for host in lab.hosts}
    number = next((n for n in range(1, MOST_HOSTS + 1) if f"{lab.name}-{n}" not in used), None)
    if number is None:
        raise LabError(f"lab {lab.name} is full: it has {MOST_HOSTS} hosts")
    address = IPv4Network(lab.subnet)[number + 1]
    return replace(draft, machine=f"{lab.name}-{number}", address=str(address))


def _claimed_subnets() -> list[IPv4Network]:
    records = (load(folder) for folder in labs_root().iterdir() if folder.is_dir())
    return [IPv4Network(record.subnet) for record in records if record is not None]


def _new_folder() -> Path:
    """Four hex digits keep `vb-<lab>-<number>` within the 15 characters of a link's name."""
    while True:
        directory = labs_root() / f"rbl{secrets.token_hex(2)}"
        if not directory.exists() and not link_exists(directory.name):
            directory.mkdir(mode=0o755)
            return directory
