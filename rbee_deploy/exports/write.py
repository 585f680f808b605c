"""From an inventory to a folder that another substrate runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rbee_deploy._fields import nearest
from rbee_deploy.errors import ExportError
from rbee_deploy.exports import compose, documents, kubernetes, pod, pods, refusals, secret_files, stack
from rbee_deploy.exports.folder import Held
from rbee_deploy.exports.stack import Part, Places, Stack
from rbee_deploy.secrets import Secret
from rbee_deploy.site import Host, Site

SECRETS_FILE = "secrets.yaml"


class Substrate(StrEnum):
    """Where an export is to run."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    POD = "pod"


PLACES: Mapping[Substrate, Places] = {
    Substrate.COMPOSE: compose.PLACES,
    Substrate.KUBERNETES: kubernetes.PLACES,
    Substrate.POD: pod.PLACES,
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of an export beside the inventory.

    `registry` is where images are pulled from, "" for those of this version that are there already. `models_bytes` is
    what a hive's volume holds whose host has no quota. `hive` is the one of a pod, None where there is no choice.
    """

    substrate: Substrate
    registry: str = ""
    models_bytes: int
    hive: str | None = None


def stack_of(site: Site, wanted: Wanted) -> Stack:
    """Return the stack that an export describes, or raise ExportError."""
    chosen = _for_pod(site, wanted.hive) if wanted.substrate is Substrate.POD else site
    refusals.check(chosen)
    if wanted.hive is not None and wanted.substrate is not Substrate.POD:
        raise ExportError(f"--hive goes with {Substrate.POD}: {wanted.substrate} has every hive of the inventory")
    return stack.of(chosen, PLACES[wanted.substrate], wanted.registry)


def files(made: Stack, wanted: Wanted) -> dict[str, str]:
    """Return what an export consists of, by name; nothing in it is secret."""
    if wanted.substrate is Substrate.COMPOSE:
        return compose.files(made)
    build = kubernetes.files if wanted.substrate is Substrate.KUBERNETES else pod.files
    return build(made, wanted.models_bytes)


def secrets(made: Stack, wanted: Wanted, client_names: list[str]) -> dict[str, str]:
    """Return the secrets that it names, by the file of each; certificates are issued where they are missing."""
    found = secret_files.read(made.site, [stack.QUEEN, *client_names])
    parts = [(part, found[part.role, part.host.name]) for part in made.parts]
    if wanted.substrate is Substrate.COMPOSE:
        return {f"{part.name}/{name}": secret.reveal() for part, files in parts for name, secret in files.items()}
    return {SECRETS_FILE: _manifests(parts)}


def held(made: Stack, wanted: Wanted) -> tuple[Held, ...]:
    """Return which secrets `secrets` puts into which file; none of them is read for that."""
    items = [f"{part.name}/{name}" for part in made.parts for name in part.secrets]
    return tuple(Held(item if wanted.substrate is Substrate.COMPOSE else SECRETS_FILE, item) for item in items)


def _manifests(held: list[tuple[Part, Mapping[str, Secret]]]) -> str:
    return documents.text(pods.secret(part, files) for part, files in held)


def _for_pod(site: Site, name: str | None) -> Site:
    """Return the fleet with the one hive that a pod has."""
    return stack.only(site, _hive_of(site, name))


def _hive_of(site: Site, name: str | None) -> Host:
    names = [host.name for host in site.hives]
    if name is not None:
        found = next((host for host in site.hives if host.name == name), None)
        if found is None:
            raise ExportError(f"no hive of the inventory is called {name!r}{nearest(name, names)}")
        return found
    if len(names) != 1:
        raise ExportError(
            f"a pod has one hive and the inventory has {len(names)} ({', '.join(names)}): name one by --hive"
        )
    return site.hives[0]
