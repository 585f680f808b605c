"""Pushing built images to a registry, and writing down where they are."""

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from rbee_deploy.artefacts import Say, fresh_file
from rbee_deploy.commands import run
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest
from rbee_deploy.images.build import PODMAN
from rbee_deploy.images.manifest import Image


def repository(image: Image, prefix: str) -> str:
    """Return where an image goes below `host:port/prefix`."""
    return f"{prefix}/{_named(image)[0]}"


def _named(image: Image) -> tuple[str, str]:
    name, _, version = image.tag.rpartition("/")[2].partition(":")
    return name, version


def command(image: Image, prefix: str, digest_file: str) -> list[str]:
    """Return the command that pushes an image; whoever is logged in by `podman login` needs nothing else."""
    target = f"{repository(image, prefix)}:{_named(image)[1]}-{image.arch}"
    return [PODMAN, "push", "--quiet", "--digestfile", digest_file, image.id.removeprefix("sha256:"), target]


def push(folder: Path, prefix: str, *, say: Say) -> None:
    """Push every image of a folder, and have `images.json` say by which digest hosts get it there; ArtefactError."""
    known = manifest.read(folder)
    pushed = [_one(known, image, prefix, say) for image in known.images]
    with fresh_file(folder / manifest.NAME) as draft:
        draft.write_text(manifest.text(pushed), encoding="utf-8")


def _one(known: manifest.Images, image: Image, prefix: str, say: Say) -> Image:
    with tempfile.TemporaryDirectory(prefix="rbee-push-") as scratch:
        digest_file = Path(scratch) / "digest"
        # It may have been built elsewhere, or have gone from here since.
        subprocess.run([PODMAN, "load", "--quiet", "--input", known.archive(image)], capture_output=True, check=False)
        run(command(image, prefix, str(digest_file)), title=f"push the image {image.name}", say=say)
        digest = digest_file.read_text(encoding="utf-8").strip() if digest_file.is_file() else ""
    if not digest.startswith("sha256:"):
        raise ArtefactError(f"{PODMAN} did not say by which digest {prefix} has the image {image.tag}; push it again")
    return replace(image, repository=repository(image, prefix), digest=digest)
