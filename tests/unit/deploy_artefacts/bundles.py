"""Small bundles for tests: real archives with next to nothing in them, and no network."""

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rbee_deploy.artefacts import Artefact, Say, Target, described, file_sha256
from rbee_deploy.bundle.folder import Bundle
from rbee_deploy.bundle.make import Makers, make
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest as image_manifest
from rbee_deploy.images.manifest import Image, Images
from rbee_deploy.inventory import host, model
from rbee_deploy.site import Model, Site
from rbee_deploy.sources import Built, HeldFile
from rbee_runtime.protocol import ModelFile
from tests.unit.deploy.sites import site_of

BOOKWORM = Target(python="3.11", arch="x86_64", glibc="2.36")
TRIXIE = Target(python="3.13", arch="x86_64", glibc="2.41")
ARM = Target(python="3.13", arch="aarch64", glibc="2.41")
FETCHED = "hf:acme/bee:*.gguf"
SPLIT = ("bee-00001-of-00002.gguf", "bee-00002-of-00002.gguf")


def quiet(line: str) -> None:
    """Drop progress."""


def tar(path: Path, name: str, text: str) -> Path:
    """Write a tar of one file."""
    data = text.encode()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


@dataclass(frozen=True)
class Makings:
    """Gives archives that say for whom they are; `fails` names what cannot be built."""

    folder: Path
    fails: frozenset[str] = frozenset()
    says: str = "first"
    needs_glibc: str = "2.34"
    reads_files: bool = True

    def release(self, version: str, target: Target) -> Artefact:
        name = f"{version}-{target.label}"
        return described(name, tar(self.folder / f"release-{name}.tar", "release.json", f"{name} {self.says}"))

    def uv(self, target: Target) -> Artefact:
        return described("uv-1-x86_64", tar(self.folder / "uv-1-x86_64.tar", "uv", "uv"))

    def engine(self, name: str, variant: str, target: Target) -> Artefact:
        if target.arch in self.fails:
            raise ArtefactError(f"an engine for {target.arch} cannot be built")
        facts = json.dumps({"python": target.python, "arch": target.arch, "glibc": self.needs_glibc})
        engine = f"{name}-{variant}-{target.python}-{target.arch}"
        return described(engine, tar(self.folder / f"engine-{engine}.tar", "engine.json", facts))

    def model(self, model: Model) -> tuple[HeldFile, ...]:
        return Built(self.folder / "cache").model(model)

    def images(self, site: Site) -> Images:
        return Built().images(site)

    def packages(self, target: Target) -> tuple[Path, ...]:
        wheel = self.folder / "rbee-0.1.0-py3-none-any.whl"
        wheel.write_bytes(b"a wheel")
        return (wheel,)

    def download(self, site: Site, model: Model) -> tuple[HeldFile, ...]:
        held = []
        for name in SPLIT:
            path = self.folder / name
            path.write_text(f"content of {name}")
            held.append(HeldFile(ModelFile(name=name, sha256=file_sha256(path), size=path.stat().st_size), path))
        return tuple(held)


def two_boxes(folder: Path, **fields: Any) -> Site:
    """Return a fleet with a model from a file and one that hosts would fetch."""
    content = folder / "smol.gguf"
    content.write_bytes(b"GGUF" * 8)
    return site_of(
        host("box1", address="192.0.2.1", queen=True),
        host("box2", address="192.0.2.2"),
        models=(model("smol", source=f"file:{content}"), model("bee", source=FETCHED)),
        secrets_dir=str(folder / "secrets"),
        **fields,
    )


def images_of(folder: Path, *images: Image) -> Path:
    """Return a folder of images whose archives have next to nothing in them."""
    folder.mkdir()
    made = []
    for image in images:
        path = folder / f"{image.name}-{image.arch}-{image.id[-4:]}.tar"
        path.write_text(f"the image {image.id}")
        made.append(replace(image, archive=path.name, sha256=file_sha256(path), size=path.stat().st_size))
    (folder / image_manifest.NAME).write_text(image_manifest.text(made))
    return folder


def bundle_of(
    site: Site,
    folder: Path,
    *targets: Target,
    makings: Makings | None = None,
    processors: Mapping[str, str] | None = None,
    say: Say = quiet,
) -> Bundle:
    """Make the bundle of a fleet out of next to nothing."""
    given = makings or Makings(folder.parent)
    makers = Makers(source=given, packages=given.packages, download=given.download)
    wanted = targets or (BOOKWORM, TRIXIE)
    return make(site, wanted, folder, TRIXIE, makers, say, processors=processors or {})


def flip(path: Path, offset: int = -1) -> None:
    """Change one byte of a file, and neither its size nor its dates as far as one can tell."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
