"""The playbook's input: the files and values of rbee's own renderer, written as an Ansible user keeps them.

`python -m benchmarks.deploy.rendering INVENTORY FOLDER [GROUP…]` runs from the checkout whose release is meant; GROUP
are device groups that the hosts have.
"""

import json
import runpy
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo.build import LAB_TARGET
from rbee_deploy import accounts, drift, modes, releases
from rbee_deploy.operations.release import INCOMING, TOOLS
from rbee_deploy.plan import HostPlan, Workshop
from rbee_deploy.render import OwnedFile, roles
from rbee_deploy.site import Host, Site
from rbee_runtime import ports

PLAYBOOK = Path(__file__).with_name("playbook")

Values = dict[str, Any]


def the_site(inventory: Path) -> Site:
    """Return the fleet that an inventory file declares."""
    site: Site = runpy.run_path(str(inventory))["queen"][0][1]["rbee"].site
    return site


def write(site: Site, folder: Path, present: Collection[str] = ()) -> None:
    """Write playbook, inventory, values and files for every host; only their owner may read them."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in PLAYBOOK.iterdir():
        shutil.copyfile(path, folder / path.name)
    _write_json(folder / "hosts.yml", inventory(site))
    shop = Workshop(site)
    for host in site.hosts:
        plan, kept = shop.plan(host, LAB_TARGET), folder / "files" / host.name
        kept.mkdir(parents=True, exist_ok=True)
        for file in plan.files:
            _private(kept / local_name(file), file.text())
        _write_json(folder / "host_vars" / f"{host.name}.json", values(host, plan, present))


def inventory(site: Site) -> Values:
    """Return the Ansible inventory; JSON is YAML too."""
    return {"all": {"hosts": {host.name: connection(host) for host in site.hosts}}}


def connection(host: Host) -> Values:
    """Return how Ansible reaches a host: as rbee does."""
    known = f"-o UserKnownHostsFile={host.ssh_known_hosts_file} -o StrictHostKeyChecking=yes"
    return {
        "ansible_host": host.ssh_address,
        "ansible_user": host.ssh_user,
        "ansible_ssh_private_key_file": host.ssh_key,
        "ansible_ssh_common_args": known,
    }


def values(host: Host, plan: HostPlan, present: Collection[str]) -> Values:
    """Return the variables of one host; what is secret is in files only."""
    services = [modes.role_units(role).service for role in roles(host)]
    return {
        "rbee_groups": [group.name for group in accounts.groups(host)],
        "rbee_users": [_user(user, present) for user in accounts.users(host)],
        "rbee_directories": [asdict(directory) for directory in accounts.directories(host)],
        "rbee_uv": {"folder": f"{TOOLS}/{plan.uv.id}", "archive": str(plan.uv.archive)},
        "rbee_release": _release(plan),
        "rbee_files": [_file(host, file) for file in plan.files],
        "rbee_services": services,
        "rbee_units": _unique(unit for role in roles(host) for unit in modes.role_units(role).enabled),
        "rbee_running": dict(_running(host, plan, role) for role in roles(host)),
    }


def local_name(file: OwnedFile) -> str:
    """Return the name of a file's copy on this machine."""
    return file.path.strip("/").replace("/", "-")


def _running(host: Host, plan: HostPlan, name: str) -> tuple[str, Values]:
    role = drift.role(name, host, plan.digest(name), plan.release.id)
    return role.service, {"file": role.running_file, "digest": role.digest}


def _user(user: accounts.User, present: Collection[str]) -> Values:
    joined = [*user.groups, *(name for name in user.groups_if_present if name in present)]
    return {"name": user.name, "comment": user.comment, "groups": joined, "home": user.home, "shell": user.shell}


def _release(plan: HostPlan) -> Values:
    unpacked, folder = f"{INCOMING}/{plan.release.id}", str(ports.RELEASES / plan.release.id)
    commands = releases.install_script(unpacked, folder, uv=f"{TOOLS}/{plan.uv.id}/uv")
    return {
        "archive": str(plan.release.archive),
        "unpacked": unpacked,
        "folder": folder,
        "script": "\n".join(("set -e", *map(shlex.join, commands))),
    }


def _file(host: Host, file: OwnedFile) -> Values:
    return {
        "path": file.path,
        "src": f"files/{host.name}/{local_name(file)}",
        "owner": file.owner,
        "group": file.group,
        "mode": file.mode,
        "restarts": sorted(file.affects),
        "is_unit": file.is_unit,
    }


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Values) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def main() -> None:
    """Write the folder of the second argument for the inventory of the first."""
    inventory_file, folder, *present = sys.argv[1:]
    write(the_site(Path(inventory_file)), Path(folder), present)


if __name__ == "__main__":
    main()
