"""The images of containers in a bundle: those that hosts of the fleet get, as files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rbee_deploy.artefacts import Say
from rbee_deploy.bundle.manifest import FOLDERS, Kind
from rbee_deploy.bundle.parts import Part, written
from rbee_deploy.errors import ArtefactError, ProcessorError
from rbee_deploy.images import manifest, needed
from rbee_deploy.images.manifest import Image, Images
from rbee_deploy.site import Host, Site
from rbee_deploy.sources import ArtefactSource


def parts(
    site: Site, archs: Sequence[str], processors: Mapping[str, str], source: ArtefactSource, say: Say
) -> Iterator[Part]:
    """Yield images.json and the archives that it names, nothing for a fleet without containers; ArtefactError.

    `archs` are the processors of the bundle, `processors` those of hosts that said theirs, by name. Where images are in
    a registry as well, hosts load the files: on the other side there is none.
    """
    if all(host.container_engine is None for host in site.hosts):
        return
    known = source.images(site)
    chosen = [(image, known.archive(image)) for image in _chosen(site, archs, processors, known, say)]
    folder = FOLDERS[Kind.IMAGE]
    listed = [replace(image, repository="", digest="") for image, _ in chosen]
    yield written(Kind.IMAGE, manifest.NAME, f"{folder}/{manifest.NAME}", manifest.text(listed))
    for image, archive in chosen:
        made = written(Kind.IMAGE, image.tag, f"{folder}/{image.archive}", "").entry
        yield Part(replace(made, size=image.size, sha256=image.sha256), archive)


def _chosen(site: Site, archs: Sequence[str], processors: Mapping[str, str], known: Images, say: Say) -> list[Image]:
    """Return the images for every host, for each processor that it may have; ArtefactError.

    Which host has which processor nobody knows unless the hosts were asked. So a host may lack images for some
    processor, which is said, but not for all; and for each processor some host has to have them.
    """
    found: dict[str, Image] = {}
    served: set[tuple[str, str]] = set()
    lacking: list[tuple[Host, str, ProcessorError]] = []
    for host, arch in _pairs(site, archs, processors):
        try:
            images = needed.by_host(host, known, arch, site.version)
        except ProcessorError as error:
            lacking.append((host, arch, error))
        else:
            found |= {image.id: image for image in images}
            served.add((host.name, arch))
    hosts, covered = {name for name, _ in served}, {arch for _, arch in served}
    for host, arch, lack in lacking:
        # One that may run bare instead has what that takes in the bundle; a bundle without any image has no such way.
        if not found or (host.fallback is None and host.name not in hosts):
            raise lack
        if host.fallback is None and arch not in covered:
            raise ArtefactError(f"{lack}, or give --from-hosts if no host on {arch} runs containers") from lack
        say(f"no images for {host.name} if it is on {arch}: {lack}")
    return list(found.values())


def _pairs(site: Site, archs: Sequence[str], processors: Mapping[str, str]) -> Iterator[tuple[Host, str]]:
    """Yield each host with containers and each processor that it may have, as far as is known."""
    for host in site.hosts:
        if host.container_engine is not None:
            known = processors.get(host.name)
            yield from ((host, arch) for arch in (archs if known is None else (known,)))
