"""A bundle in the place of this machine's cache, compilers and network."""

from dataclasses import dataclass

from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.bundle.folder import Bundle
from rbee_deploy.bundle.manifest import FOLDERS, Entry, Kind, best
from rbee_deploy.errors import BundleError
from rbee_deploy.images import manifest as image_manifest
from rbee_deploy.images.manifest import Images
from rbee_deploy.site import Model, Site
from rbee_deploy.sources import HeldFile
from rbee_runtime.models.references import identity, shown
from rbee_runtime.protocol import ModelFile


@dataclass(frozen=True)
class Bundled:
    """What a verified bundle holds; ids and hashes are those of its manifest."""

    bundle: Bundle
    reads_files: bool = False

    def release(self, version: str, target: Target) -> Artefact:
        """Return the release, whose version has to be the one that is asked for."""
        has = self.bundle.manifest.rbee
        if version != has:
            raise BundleError(
                f"the inventory asks for rbee {version} and {self.bundle.folder} has {has}: "
                f"use a bundle of {version}, or drop version= from fleet()"
            )
        return self._artefact(self._entry(Kind.RELEASE, "release", target))

    def uv(self, target: Target) -> Artefact:
        """Return uv."""
        return self._artefact(self._entry(Kind.UV, "uv", target))

    def engine(self, name: str, variant: str, target: Target) -> Artefact:
        """Return the build of an engine."""
        return self._artefact(self._entry(Kind.ENGINE, f"engine {name} {variant}", target, f"{name} {variant}"))

    def model(self, model: Model) -> tuple[HeldFile, ...]:
        """Return the files of a model, also of one that hosts with a network would fetch."""
        if not (model.copied or model.fetched):
            return ()
        held = self.bundle.manifest.of_kind(Kind.MODEL, identity(model.source))
        if not held:
            raise BundleError(
                f"{self.bundle.folder} has no model {model.name} ({shown(model.source)}): "
                f"{self._made_again()} where there is a network"
            )
        return tuple(HeldFile(_file(entry), self.bundle.path(entry)) for entry in held)

    def images(self, site: Site) -> Images:
        """Return the images of the bundle; where the inventory has them does not matter."""
        inside = {entry.path for entry in self.bundle.manifest.of_kind(Kind.IMAGE)}
        if f"{FOLDERS[Kind.IMAGE]}/{image_manifest.NAME}" not in inside:
            raise BundleError(
                f"{self.bundle.folder} has no images for the containers of fleet {site.name}: "
                f"{self._made_again()} where they were built"
            )
        return image_manifest.read(self.bundle.folder / FOLDERS[Kind.IMAGE])

    def _entry(self, kind: Kind, what: str, target: Target, of: str = "") -> Entry:
        found = best(self.bundle.manifest.of_kind(kind, of), target)
        if found is None:
            form = f"python={target.python},arch={target.arch},glibc={target.glibc}"
            raise BundleError(
                f"{self.bundle.folder} has no {what} for Python {target.python} on {target.arch} with glibc "
                f"{target.glibc}: {self._made_again()} --target {form}, which adds it"
            )
        return found

    def _made_again(self) -> str:
        return f"run rbee-deploy bundle -i INVENTORY -o {self.bundle.folder}"

    def _artefact(self, entry: Entry) -> Artefact:
        return Artefact(id=entry.name, archive=self.bundle.path(entry), sha256=entry.sha256, size=entry.size)


def _file(entry: Entry) -> ModelFile:
    return ModelFile(name=entry.name, sha256=entry.sha256, size=entry.size)
