"""Which images of a folder a host gets; pure."""

from pathlib import Path

from rbee_deploy.errors import ArtefactError
from rbee_deploy.images.kinds import ROLE_IMAGES, Kind
from rbee_deploy.images.manifest import Image, Images
from rbee_deploy.site import Host


def by_host(host: Host, known: Images, arch: str, version: str) -> tuple[Image, ...]:
    """Return the images for a host of a processor (`uname -m`), none where it runs no container.

    Raises ArtefactError for one that is not there, or is not of this version of rbee.
    """
    if host.container_engine is None:
        return ()
    roles = (role for role, plays in (("queen", host.queen), ("hive", host.hive)) if plays)
    housed = [ROLE_IMAGES[role] for role in roles] if host.way.housed else []
    # Each image of workers serves the built-in engine, and a host without another needs one as well.
    workers = [kind for kind in Kind if kind.engine in host.engines] or [Kind.WORKER_LLAMA_CPP]
    found = tuple(known.of(kind, arch) for kind in (*housed, *(workers if host.hive else ())))
    for image in found:
        if image.version != version:
            raise ArtefactError(
                f"the images in {known.folder} are of rbee {image.version}, and this fleet gets {version}: "
                f"build them again with `rbee-deploy images --out {known.folder}`"
            )
    return found


def check(host: Host, known: Images, version: str) -> None:
    """Raise ArtefactError where a host could not get its images out of this folder, whatever its processor is."""
    failed: list[ArtefactError] = []
    # A folder of none says so of any processor.
    for arch in sorted({image.arch for image in known.images}) or ["any processor"]:
        try:
            for image in by_host(host, known, arch, version):
                file_of(known, image)
        except ArtefactError as error:
            failed.append(error)
        else:
            return
    raise failed[0]


def file_of(known: Images, image: Image) -> Path | None:
    """Return where the file of an image is on this machine, None for one that hosts pull; ArtefactError."""
    return None if image.repository else known.archive(image)
