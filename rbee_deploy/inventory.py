"""The inventory: which hosts exist, how each runs, and which models the fleet serves.

    from rbee_deploy.inventory import each_host, fleet, host, model

    queen, hives = fleet(
        hosts=[host("box1", address="192.0.2.10", queen=True), host("box2", address="192.0.2.11")],
        models=[model("smollm2", source="file:/srv/models/smollm2.gguf", replicas=each_host)],
    )

`inventories/example.py` shows every field once. What is wrong raises InventoryError: one sentence, exit status 1.
"""

import traceback
from dataclasses import dataclass
from typing import Any

from rbee_deploy import _fields as check
from rbee_deploy import _invariants as invariants
from rbee_deploy import quicker
from rbee_deploy.command_engines import CommandEngine
from rbee_deploy.devices import Recorded, Simulated, recorded, simulated
from rbee_deploy.errors import InventoryError
from rbee_deploy.externals import External
from rbee_deploy.rollout import Rollout
from rbee_deploy.secrets import secret_command, secret_env, secret_file
from rbee_deploy.site import Host, Model, Replicas, Site, TlsPaths, each_host
from rbee_deploy.stores import Store

__all__ = [
    "CommandEngine",
    "External",
    "Host",
    "Model",
    "Placement",
    "Recorded",
    "Replicas",
    "Rollout",
    "Simulated",
    "Site",
    "Store",
    "TlsPaths",
    "command_engine",
    "each_host",
    "external",
    "fleet",
    "host",
    "model",
    "recorded",
    "secret_command",
    "secret_env",
    "secret_file",
    "simulated",
    "store",
]

PyinfraHost = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Placement:
    """What rides in each host's pyinfra data under the key `rbee`."""

    site: Site
    host: Host

    def to_json(self) -> dict[str, Any]:
        """Return what `pyinfra debug-inventory` shows."""
        return {"fleet": self.site.name, "host": self.host.name, "queen": self.host.queen, "hive": self.host.hive}


def host(name: object = "", *extra: object, **fields: Any) -> Host:
    """Declare a machine; the fields are those of Host."""
    declared = check.construct(Host, "host", name, extra, fields)
    invariants.check_host(declared)
    return declared


def model(name: object = "", *extra: object, **fields: Any) -> Model:
    """Declare a model; the fields are those of Model."""
    declared = check.construct(Model, "model", name, extra, fields)
    invariants.check_model(declared)
    return declared


def external(name: object = "", *extra: object, **fields: Any) -> External:
    """Declare a server that is there already; the fields are those of External."""
    return check.construct(External, "external", name, extra, fields)


def command_engine(name: object = "", *extra: object, **fields: Any) -> CommandEngine:
    """Declare a server of OpenAI's API that hives start for models; the fields are those of CommandEngine."""
    return check.construct(CommandEngine, "command_engine", name, extra, fields)


def store(*extra: object, **fields: Any) -> Store:
    """Declare how models come to hosts and how much disk they may take; the fields are those of Store."""
    try:
        declared = check.construct_nameless(Store, "store", extra, fields)
        invariants.check_store(declared)
    except InventoryError as error:
        # No host is known yet, and several may share it.
        written = traceback.extract_stack(limit=2)[0]
        raise InventoryError(f"{written.filename}, line {written.lineno}: {error.code}") from error
    return declared


def fleet(name: object = "rbee", *extra: object, **fields: Any) -> tuple[list[PyinfraHost], list[PyinfraHost]]:
    """Declare the fleet; the fields are those of Site. Returns the two pyinfra groups: queen and hives."""
    quicker.install()
    site = check.construct(Site, "fleet", name, extra, fields)
    invariants.check_site(site)
    entries = {item.name: (item.name, pyinfra_data(Placement(site, item))) for item in site.hosts}
    return [entries[site.queen.name]], [entries[item.name] for item in site.hives]


def pyinfra_data(placed: Placement) -> dict[str, Any]:
    """Return what pyinfra is told of a host."""
    item = placed.host
    given = {
        "ssh_user": item.ssh_user,
        "ssh_key": item.ssh_key,
        "ssh_known_hosts_file": item.ssh_known_hosts_file,
        "ssh_config_file": item.ssh_config_file,
    }
    return {
        "ssh_hostname": item.ssh_address,
        "ssh_port": item.ssh_port,
        "ssh_strict_host_key_checking": "yes" if item.ssh_host_keys == "strict" else "accept-new",
        **{key: value for key, value in given.items() if value is not None},
        "rbee": placed,
    }
