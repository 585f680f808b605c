"""Building images with Podman: the command lines, and running them on this machine."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.artefacts import Say, file_sha256, fresh_file
from rbee_deploy.commands import run
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import context, manifest
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import Kind
from rbee_deploy.images.manifest import Image

PODMAN = "podman"
BASE = "python:3.13-slim-trixie"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is built: version of rbee, architecture, base image, and the revision of the sources for the label.

    `options` are further ones of `podman build`.
    """

    version: str
    arch: str
    base: str = BASE
    revision: str = ""
    options: tuple[str, ...] = ()


def command(kind: Kind, recipe: Recipe, folder: str) -> list[str]:
    """Return the command that builds an image from a context folder, the same image for the same content.

    Docker's format, as OCI's knows no health checks.
    """
    given = {"BASE": recipe.base, "VERSION": recipe.version, "REVISION": recipe.revision}
    arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    return [
        *(PODMAN, "build", "--quiet", "--format", "docker", "--timestamp", "0", "--pull=missing", "--layers"),
        *recipe.options,
        *("--file", f"{folder}/{context.CONTAINERFILE}", "--target", kind.value, *arguments),
        *("--tag", kind.tag(recipe.version), folder),
    ]


def id_command(kind: Kind, version: str) -> list[str]:
    """Return the command that prints the id of an image that was built."""
    return [PODMAN, "image", "inspect", "--format", "{{.Id}}", kind.tag(version)]


def save_command(kind: Kind, version: str, archive: str) -> list[str]:
    """Return the command that writes an image to a file; Podman and Docker both load this format."""
    return [PODMAN, "save", "--quiet", "--format", "docker-archive", "--output", archive, kind.tag(version)]


def described(kind: Kind, recipe: Recipe, parts: Parts, identity: str, archive: Path) -> Image:
    """Return what is written down of a built image."""
    return Image(
        name=kind,
        version=recipe.version,
        arch=recipe.arch,
        id=f"sha256:{identity.strip().removeprefix('sha256:')}",
        tag=kind.tag(recipe.version),
        release=parts.release.id,
        engine=parts.engine.id if kind.engine else "",
        archive=archive.name,
        sha256=file_sha256(archive),
        size=archive.stat().st_size,
    )


def archive_name(kind: Kind, recipe: Recipe) -> str:
    """Return the name of an image's file in a folder of images."""
    return f"rbee-{kind.value}-{recipe.version}-{recipe.arch}.tar"


def build(recipe: Recipe, parts: Parts, out: Path, *, say: Say, kinds: Sequence[Kind] = tuple(Kind)) -> None:
    """Build images on this machine and put them into a folder with `images.json`; ArtefactError."""
    if shutil.which(PODMAN) is None:
        raise ArtefactError(f"building images needs {PODMAN} and this machine has none: apt-get install {PODMAN}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rbee-images-") as scratch:
        folder = Path(scratch)
        context.write(folder, parts)
        made = [_one(kind, recipe, parts, folder, out, say) for kind in kinds]
    with fresh_file(out / manifest.NAME) as draft:
        draft.write_text(manifest.text([*_others(out, made), *made]), encoding="utf-8")


def _others(out: Path, made: Sequence[Image]) -> list[Image]:
    """Return what the folder has for other processors, or of other kinds, and keeps."""
    if not (out / manifest.NAME).is_file():
        return []
    anew = {(image.name, image.arch) for image in made}
    return [image for image in manifest.read(out).images if (image.name, image.arch) not in anew]


def _one(kind: Kind, recipe: Recipe, parts: Parts, folder: Path, out: Path, say: Say) -> Image:
    run(command(kind, recipe, str(folder)), title=f"build the image {kind}", say=say)
    identity = subprocess.run(id_command(kind, recipe.version), capture_output=True, text=True, check=True).stdout
    archive = out / archive_name(kind, recipe)
    draft = archive.with_name(f".{archive.name}.new")
    # Podman writes over no file; what is there stays until the new one is whole.
    draft.unlink(missing_ok=True)
    run(save_command(kind, recipe.version, str(draft)), title=f"save the image {kind}", say=say)
    draft.replace(archive)
    return described(kind, recipe, parts, identity, archive)
