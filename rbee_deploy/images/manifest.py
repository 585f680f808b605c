"""`images.json`: what a folder of images says of itself; pure but for reading it."""

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee_deploy.errors import ArtefactError, ProcessorError
from rbee_deploy.images.kinds import USUAL_VARIANTS, Kind, Variant

NAME = "images.json"
_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image for one kind of processor.

    `id` is the hash of its configuration, by which engines of containers know it wherever it came from. `release` is
    the release inside, `engine` the folder of the model engine, "" without one. `archive` is its file in the folder, of
    `size` bytes and with hash `sha256`; "" where only a registry has it: there it is `<repository>@<digest>`.
    `variant` is what a worker of llama.cpp computes on. `model` is the name of the one inside, of hash `model_sha256`,
    "" in images that get theirs from outside.
    """

    name: Kind
    version: str
    arch: str
    id: str
    tag: str
    release: str = ""
    engine: str = ""
    archive: str = ""
    sha256: str = ""
    size: int = 0
    repository: str = ""
    digest: str = ""
    variant: str = ""
    model: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class Images:
    """A folder of images."""

    folder: Path
    images: tuple[Image, ...]

    def of(self, kind: Kind, arch: str) -> Image:
        """Return an image for a processor (`uname -m`) that has no model inside, or raise ArtefactError.

        It is a ProcessorError where only other processors have one. Of several variants it is the usual one; another
        only where the folder has no more than that.
        """
        found = [image for image in self.images if (image.name, image.arch, image.model) == (kind, arch, "")]
        chosen = [image for image in found if image.variant in USUAL_VARIANTS] or found
        if not chosen:
            known = ", ".join(sorted({f"{image.name} for {image.arch}" for image in self.images})) or "none"
            elsewhere = any((image.name, image.model) == (kind, "") for image in self.images)
            raise (ProcessorError if elsewhere else ArtefactError)(
                f"{self.folder / NAME} has no image {kind} for {arch} (it has {known}): "
                "build it there with `rbee-deploy images`"
            )
        if len(chosen) > 1:
            variants = " and ".join(sorted(image.variant for image in chosen))
            raise ArtefactError(
                f"{self.folder / NAME} has the image {kind} for {variants}, and none for {Variant.CPU}: "
                "have each of them in a folder of its own, or build the usual one there with `rbee-deploy images`"
            )
        return chosen[0]

    def archive(self, image: Image) -> Path:
        """Return the file of an image, or raise ArtefactError."""
        if not image.archive:
            raise ArtefactError(self._without_file(image))
        path = self.folder / image.archive
        if not path.is_file():
            raise ArtefactError(f"{path} is not there: build the images in {self.folder} again, or copy it there")
        if path.stat().st_size != image.size:
            raise ArtefactError(
                f"{path} is not as long as {self.folder / NAME} says: copy it there whole, or build the images again"
            )
        return path

    def _without_file(self, image: Image) -> str:
        has = f"{self.folder / NAME} has the image {image.name} for {image.arch}"
        built = f"build the images here with `rbee-deploy images --out {self.folder}`"
        if not image.repository:
            return f"{has} and names no file of it: {built}"
        where = f"{image.repository}@{image.digest}"
        return f"{has} only at {where}: pull it and save it as a file there (docs/air-gap.md says how), or {built}"


def text(images: Iterable[Image]) -> str:
    """Return the content of the file."""
    entries = [dataclasses.asdict(image) for image in images]
    return json.dumps({"images": entries}, indent=1, sort_keys=True) + "\n"


def read(folder: Path) -> Images:
    """Return what a folder has, or raise ArtefactError with one sentence."""
    path = folder / NAME
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Images(folder, tuple(_image(entry) for entry in known["images"]))
    except OSError as error:
        raise ArtefactError(
            f"{folder} is no folder of images: cannot read {path} ({error.strerror}); "
            f"make one with `rbee-deploy images --out {folder}`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is damaged ({error}); build the images again") from error


def _image(entry: dict[str, Any]) -> Image:
    kind = Kind(entry["name"])
    # Folders of before there were variants do not name the one that they have.
    image = Image(**{"variant": Variant.CPU.value if kind.varied else "", **entry, "name": kind})
    if not _ID.fullmatch(image.id):
        raise ValueError(f"{image.id!r} is not the id of an image")
    if Path(image.archive).name != image.archive:
        raise ValueError(f"{image.archive!r} is not the name of a file in it")
    return image
