"""The images of containers in a bundle: those that hosts of the fleet get, as files."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rbee_deploy.bundle.manifest import FOLDERS, Kind
from rbee_deploy.bundle.parts import Part, written
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest, needed
from rbee_deploy.images.manifest import Image, Images
from rbee_deploy.site import Site
from rbee_deploy.sources import ArtefactSource


def parts(site: Site, archs: Sequence[str], source: ArtefactSource) -> Iterator[Part]:
    """Yield images.json and the archives that it names, nothing for a fleet without containers; ArtefactError.

    Where they are in a registry as well, hosts load the files: on the other side there is none.
    """
    if all(host.container_engine is None for host in site.hosts):
        return
    known = source.images(site)
    chosen = [(image, known.archive(image)) for image in _chosen(site, archs, known)]
    folder = FOLDERS[Kind.IMAGE]
    listed = [replace(image, repository="", digest="") for image, _ in chosen]
    yield written(Kind.IMAGE, manifest.NAME, f"{folder}/{manifest.NAME}", manifest.text(listed))
    for image, archive in chosen:
        made = written(Kind.IMAGE, image.tag, f"{folder}/{image.archive}", "").entry
        yield Part(replace(made, size=image.size, sha256=image.sha256), archive)


def _chosen(site: Site, archs: Sequence[str], known: Images) -> list[Image]:
    """Return the images for every processor of which there are any; which host has which, nobody can ask here."""
    found: dict[str, Image] = {}
    failed: list[ArtefactError] = []
    for arch in archs:
        try:
            found |= {
                image.id: image for host in site.hosts for image in needed.by_host(host, known, arch, site.version)
            }
        except ArtefactError as error:
            failed.append(error)
    if failed and not found:
        raise failed[0]
    return list(found.values())
