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
from rbee_deploy.images import baking, context, manifest
from rbee_deploy.images.baking import Baked
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import PLAIN, USUAL, Kind, Variant
from rbee_deploy.images.manifest import Image
from rbee_deploy.versions import version

PODMAN = "podman"
LEAST_PODMAN = "4.5"
"""The first with Buildah 1.30, which knows `RUN --network`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is built: version of rbee, architecture, base image, and the revision of the sources for the label.

    `variant` is that of the engine in `worker-llama-cpp`. `options` are further ones of `podman build`.
    """

    version: str
    arch: str
    base: str = PLAIN.image
    revision: str = ""
    variant: Variant = Variant.CPU
    options: tuple[str, ...] = ()

    def variant_of(self, kind: Kind) -> str:
        """Return the variant of an image, "" for one that comes in none."""
        return self.variant.value if kind.varied else ""

    def tag(self, kind: Kind, model: str = "") -> str:
        """Return the tag of an image; `model` is the part of it that says which one is inside."""
        return kind.tag(self.version, self.variant_of(kind), model)

    def archive_name(self, kind: Kind, model: str = "") -> str:
        """Return the name of an image's file in a folder of images."""
        return f"rbee-{kind.value}-{kind.label(self.version, self.variant_of(kind), model)}-{self.arch}.tar"


def command(kind: Kind, recipe: Recipe, parts: Parts, folder: str) -> list[str]:
    """Return the command that builds an image from a context folder, the same image for the same content."""
    given = {"BASE": recipe.base, "VERSION": recipe.version, "REVISION": recipe.revision}
    digests = {"RELEASE_DIGEST": context.release_digest(parts)}
    if kind.engine:
        digests["ENGINE_DIGEST"] = context.engine_digest(parts)
    variant = {"VARIANT": recipe.variant.value} if kind.varied else {}
    options = ("--target", kind.value, *recipe.options)
    return _build(context.CONTAINERFILE, recipe.tag(kind), given | digests | variant, folder, options)


def bake_command(baked: Baked, recipe: Recipe, folder: str) -> list[str]:
    """Return the command that puts a model into the image of a worker that was built before."""
    given = {"WORKER": recipe.tag(baking.WORKER), "MODEL": baked.name, "SHA256": baked.sha256}
    return _build(baking.CONTAINERFILE, recipe.tag(baking.WORKER, baked.slug), given, folder, recipe.options)


def _build(file: str, tag: str, given: dict[str, str], folder: str, options: Sequence[str]) -> list[str]:
    arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    return [
        # Docker's format, as OCI's knows no health checks.
        *(PODMAN, "build", "--quiet", "--format", "docker", "--timestamp", "0", "--pull=missing", "--layers"),
        *options,
        *("--file", f"{folder}/{file}", *arguments, "--tag", tag, folder),
    ]


def id_command(tag: str) -> list[str]:
    """Return the command that prints the id of an image that was built."""
    return [PODMAN, "image", "inspect", "--format", "{{.Id}}", tag]


def save_command(tag: str, archive: str) -> list[str]:
    """Return the command that writes an image to a file; Podman and Docker both load this format."""
    return [PODMAN, "save", "--quiet", "--format", "docker-archive", "--output", archive, tag]


def described(
    kind: Kind, recipe: Recipe, parts: Parts, identity: str, archive: Path, baked: Baked | None = None
) -> Image:
    """Return what is written down of a built image."""
    return Image(
        name=kind,
        version=recipe.version,
        arch=recipe.arch,
        id=f"sha256:{identity.strip().removeprefix('sha256:')}",
        tag=recipe.tag(kind, baked.slug if baked is not None else ""),
        release=parts.release.id,
        engine=parts.engine_id if kind.engine else "",
        archive=archive.name,
        sha256=file_sha256(archive),
        size=archive.stat().st_size,
        variant=recipe.variant_of(kind),
        model=baked.name if baked is not None else "",
        model_sha256=baked.sha256 if baked is not None else "",
    )


def check_podman() -> None:
    """Raise ArtefactError where this machine has no Podman that builds images of rbee."""
    if shutil.which(PODMAN) is None:
        raise ArtefactError(f"building images needs {PODMAN} and this machine has none: apt-get install {PODMAN}")
    said = subprocess.run([PODMAN, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    have = said.rpartition(" ")[2]
    if not version(have):
        raise ArtefactError(f"building images needs {PODMAN}, and `{PODMAN} --version` names none here: mend it")
    if version(have) < version(LEAST_PODMAN):
        raise ArtefactError(
            f"Podman {have} on this machine is older than {LEAST_PODMAN}, the oldest that builds images of rbee: "
            "upgrade it, or build them on another machine"
        )


def build(
    recipe: Recipe,
    parts: Parts,
    out: Path,
    *,
    say: Say,
    kinds: Sequence[Kind] = USUAL,
    baked: Sequence[Baked] = (),
) -> list[Image]:
    """Build images on this machine, put them into a folder with `images.json` and return them; ArtefactError."""
    check_podman()
    out.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(prefix="rbee-images-") as scratch:
        folder = Path(scratch)
        context.write(folder, parts)
        for kind in kinds:
            words = command(kind, recipe, parts, str(folder))
            archive, identity = _saved(words, recipe.tag(kind), out / recipe.archive_name(kind), say)
            made.append(described(kind, recipe, parts, identity, archive))
    for model in baked:
        # Beside the result, where the model may be a second name of the same file instead of a copy.
        with tempfile.TemporaryDirectory(prefix=".bake-", dir=out) as scratch:
            baking.write(Path(scratch), model, parts.engine_id)
            words, tag = bake_command(model, recipe, scratch), recipe.tag(baking.WORKER, model.slug)
            archive, identity = _saved(words, tag, out / recipe.archive_name(baking.WORKER, model.slug), say)
            made.append(described(baking.WORKER, recipe, parts, identity, archive, model))
    with fresh_file(out / manifest.NAME) as draft:
        draft.write_text(manifest.text([*_others(out, made), *made]), encoding="utf-8")
    return made


def _others(out: Path, made: Sequence[Image]) -> list[Image]:
    """Return what the folder has for other processors, or of other kinds, variants and models, and keeps."""
    if not (out / manifest.NAME).is_file():
        return []
    anew = {_what(image) for image in made}
    written = {image.archive for image in made}
    return [image for image in manifest.read(out).images if _what(image) not in anew and image.archive not in written]


def _what(image: Image) -> tuple[str, ...]:
    return (image.name, image.arch, image.variant, image.model)


def _saved(words: Sequence[str], tag: str, archive: Path, say: Say) -> tuple[Path, str]:
    """Build an image and write it to its file; return that and the image's id."""
    run(words, title=f"build the image {tag}", say=say)
    identity = subprocess.run(id_command(tag), capture_output=True, text=True, check=True).stdout
    draft = archive.with_name(f".{archive.name}.new")
    # Podman writes over no file; what is there stays until the new one is whole.
    draft.unlink(missing_ok=True)
    run(save_command(tag, str(draft)), title=f"save the image {tag}", say=say)
    draft.replace(archive)
    return archive, identity
