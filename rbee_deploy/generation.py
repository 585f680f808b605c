"""What one host should be as a whole, in the form in which its activator takes it; pure."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import rbee_runtime
from rbee_deploy import drift
from rbee_deploy.activator.manifest import File, Generation
from rbee_deploy.images.manifest import Image
from rbee_deploy.modes import enabled_units, helper_units
from rbee_deploy.render import OwnedFile, digest_of, roles, unwanted_paths
from rbee_deploy.site import Host
from rbee_runtime import ports


def generation(
    host: Host, release: str, files: Sequence[OwnedFile], images: Sequence[Image] = (), inside: str = ""
) -> Generation:
    """Return the generation of a host with a release (its id), these files, and these images for its containers.

    `inside` is the release that queen and hive run where that is the one of an image.
    """
    played = roles(host)
    made_of = sorted((image.id, image.name.value) for image in images)
    return Generation(
        release=release,
        version=rbee_runtime.__version__,
        roles=tuple(drift.role(name, host, digest_of(files, name), inside or release) for name in played),
        files=tuple(map(_file, files)),
        unwanted=unwanted_paths(files),
        enabled=enabled_units(played, host.way, firewall=host.firewall is not None),
        helpers=helper_units(played, host.way),
        target=ports.TARGET_UNIT,
        engine=host.container_engine.value if host.container_engine is not None else "",
        images=tuple(image for image, _ in made_of),
        kinds=tuple(kind for _, kind in made_of),
    )


def _file(file: OwnedFile) -> File:
    return File(
        path=file.path,
        sha256=file.sha256,
        owner=file.owner,
        group=file.group,
        mode=file.mode,
        secret=file.secret,
        affects=tuple(sorted(file.affects)),
    )


def payload(wanted: Generation, files: Iterable[OwnedFile]) -> str:
    """Return the line by which a generation and its contents travel, on standard input only."""
    contents = {file.path: base64.b64encode(file.text().encode()).decode() for file in files}
    return json.dumps({"generation": asdict(wanted), "contents": contents}, separators=(",", ":"))
