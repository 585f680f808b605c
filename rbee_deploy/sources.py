"""Where what hosts get comes from: built and fetched on this machine, or taken from somewhere else as it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rbee_deploy import engines, model_files, releases
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest as image_manifest
from rbee_deploy.images.manifest import Images
from rbee_deploy.site import Model, Site
from rbee_runtime.protocol import ModelFile


@dataclass(frozen=True)
class HeldFile:
    """One file of a model and where its content lies on this machine."""

    file: ModelFile
    path: Path


class ArtefactSource(Protocol):
    """Gives artefacts and model files; whatever it cannot give raises DeployError."""

    @property
    def reads_files(self) -> bool:
        """Say whether a model's `file:` source has to be a file on this machine, and `images` of a fleet a folder."""
        ...

    def release(self, version: str, target: Target) -> Artefact:
        """Return the release of rbee `version` for a host of `target`."""
        ...

    def uv(self, target: Target) -> Artefact:
        """Return the tool that installs it."""
        ...

    def engine(self, name: str, variant: str, target: Target) -> Artefact:
        """Return the build of an engine."""
        ...

    def model(self, model: Model) -> tuple[HeldFile, ...]:
        """Return the files to bring to the hosts of a model; none where the hosts have or fetch them."""
        ...

    def images(self, site: Site) -> Images:
        """Return the folder of images of a fleet with containers."""
        ...


@dataclass(frozen=True)
class Built:
    """What this machine builds, fetches and keeps in its cache."""

    cache: Path | None = None
    reads_files: bool = True

    def release(self, version: str, target: Target) -> Artefact:
        """Return the release, made of the rbee at hand."""
        return releases.build_release(version, target, self.cache)

    def uv(self, target: Target) -> Artefact:
        """Return uv out of its pinned wheel."""
        return releases.uv_binary(target, self.cache)

    def engine(self, name: str, variant: str, target: Target) -> Artefact:
        """Return the engine, compiled at first."""
        return engines.build_engine(name, variant, target, self.cache)

    def model(self, model: Model) -> tuple[HeldFile, ...]:
        """Return the one file of a model whose source is a file here."""
        if not model.copied or model.file is None:
            return ()
        return (HeldFile(model_files.describe(model.source, self.cache), model.file),)

    def images(self, site: Site) -> Images:
        """Return what lies in the folder that the inventory names."""
        return image_manifest.read(Path(site.images or ""))


@dataclass(frozen=True)
class Nothing:
    """For a run that brings nothing to hosts: what they get may lie on another machine, or in a bundle."""

    reads_files: bool = False

    def release(self, version: str, target: Target) -> Artefact:
        """Refuse it."""
        raise _unasked(f"rbee {version} for {target.label}")

    def uv(self, target: Target) -> Artefact:
        """Refuse it."""
        raise _unasked(f"uv for {target.label}")

    def engine(self, name: str, variant: str, target: Target) -> Artefact:
        """Refuse it."""
        raise _unasked(f"engine {name} {variant} for {target.label}")

    def model(self, model: Model) -> tuple[HeldFile, ...]:  # noqa: ARG002 - as any source
        """Return no file."""
        return ()

    def images(self, site: Site) -> Images:
        """Refuse it."""
        raise _unasked(f"the images of fleet {site.name}")


def _unasked(what: str) -> ArtefactError:
    return ArtefactError(f"this command brings nothing to hosts, and wanted {what}")


class _Choice:
    """What the command line says for this process; pyinfra leaves no other way to what it runs."""

    source: ArtefactSource = Built()


def choose(source: ArtefactSource) -> None:
    """Take everything that this run brings to hosts from `source`."""
    _Choice.source = source


def chosen() -> ArtefactSource:
    """Return where this run takes from what it brings to hosts."""
    return _Choice.source
