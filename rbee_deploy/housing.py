"""What the units of queen and hive in containers are rendered with; pure."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rbee_deploy import modes
from rbee_deploy._fields import host_path
from rbee_deploy.errors import RenderError
from rbee_deploy.images.kinds import ROLE_IMAGES
from rbee_deploy.images.manifest import Image
from rbee_deploy.modes import ContainerEngine, Way
from rbee_deploy.site import Host, Model, Site
from rbee_deploy.versions import version
from rbee_runtime import ports


@dataclass(frozen=True)
class Quadlet:
    """Which keys the Quadlet of a Podman knows that not all do; where not, the command's own option is passed on."""

    stop: bool


def quadlet(podman: str | None) -> Quadlet:
    """Return it for a version; None is one that setup will install: not an old one, and rendered for anew then.

    Raises RenderError for one that is no version: what a unit says must fit the Podman that reads it.
    """
    if podman is not None and not version(podman):
        raise RenderError("its Podman does not say its version: run `podman --version` there and mend what it says")

    return Quadlet(stop=podman is None or version(podman) >= version("5.0"))


ROLE_OF = {ports.QUEEN_QUADLET: "queen", ports.QUEEN_UNIT: "queen", ports.HIVE_QUADLET: "hive", ports.HIVE_UNIT: "hive"}


def template(name: str, way: Way) -> str:
    """Return the template of a unit file on a host that runs rbee in some way."""
    return f"{_folder(name, way)}/{name}.j2"


def _folder(name: str, way: Way) -> str:
    if modes.is_quadlet(name):
        return "quadlet"
    if way.housed in modes.ATTENDED and name in ROLE_OF:
        return "systemd/attended"
    rootless = way.engine is ContainerEngine.ROOTLESS and name in (ports.PODMAN_UNIT, ports.NETWORK_UNIT)
    return "systemd/rootless" if rootless else "systemd"


def values(
    site: Site, host: Host, name: str, images: Sequence[Image], credentials: Sequence[str], podman: str | None
) -> dict[str, Any]:
    """Return what the template of a role in a container needs; `credentials` are names of the role's files."""
    role = ROLE_OF[name]
    image = next((image for image in images if image.name is ROLE_IMAGES[role]), None)
    if image is None:
        raise RenderError(f"host {host.name!r} has no image for its {role}; it must be read first")
    own = {
        "queen": (ports.QUEEN_STATE, ports.QUEEN_RUN),
        "hive": (ports.HIVE_STATE, ports.HIVE_RUN, host.models_dir),
    }[role]
    # Not --volume, which makes an empty folder of root's where one is missing, such as a disk that is not mounted.
    volumes = [f"--mount=type=bind,source={path},target={path}" for path in own]
    # The guard's socket, and never the engine's; and by their processes it tells whose a GPU's memory is.
    guard = f"--mount=type=bind,source={ports.GUARD_RUN},target={ports.GUARD_RUN},readonly"
    more = [guard, "--pid=host"] if role == "hive" else []
    shown = read_only(site, host) if role == "hive" else ()
    arguments = [*(f"--credential={file}" for file in credentials), *(f"--show={path}" for path in shown)]
    return {
        "role": role,
        "image": image,
        "q": quadlet(podman),
        "credentials": list(credentials),
        "credentials_directory": modes.credentials_directory(modes.role_units(role).service),
        "arguments": "".join(f" {word}" for word in arguments),
        "words": [shlex.quote(word) for word in (*volumes, *more)],
    }


def read_only(site: Site, host: Host) -> tuple[str, ...]:
    """Return the folders that a hive reads models from beside its store, if they are there."""
    files = (model.file for model in site.models if _lies_there(site, host, model))
    folders = (str(PurePosixPath(path).parent) for path in files if path is not None)
    return tuple(dict.fromkeys((*host.store.hf_caches, *(folder for folder in folders if is_showable(folder)))))


def is_showable(folder: str) -> bool:
    """Say whether a folder can be named in a unit, and is not all of the host."""
    try:
        return bool(host_path(folder))
    except ValueError:
        return False


def _lies_there(site: Site, host: Host, model: Model) -> bool:
    return not model.copied and host in site.hives_for(model)
