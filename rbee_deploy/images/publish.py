"""Publishing images: folders of images, one for each kind of processor, become one list for each name in a registry.

`python -m rbee_deploy.images.publish --to REGISTRY/OWNER --out FOLDER IMAGES…` pushes what the folders hold with the
Podman of this machine, which has to be logged in there. It writes `images.json` with the digests, and prints what has
one, images and lists, as JSON.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.artefacts import Say, fresh_file, say_to_stderr
from rbee_deploy.commands import run
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest
from rbee_deploy.images.build import PODMAN
from rbee_deploy.images.kinds import Kind
from rbee_deploy.images.manifest import Image, Images

FORMAT = "v2s2"
"""Docker's format, as images are built: another one would give them other ids and take their health checks."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a registry has as `<repository>@<digest>`: an image, or the list of a name, whose `arch` is ""."""

    name: str
    arch: str
    repository: str
    digest: str

    @property
    def reference(self) -> str:
        """Return where it is, for Podman."""
        return f"docker://{self.repository}@{self.digest}"


def repository(to: str, image: Image) -> str:
    """Return where a registry has an image; registries take no capitals, and names of owners may have some."""
    return f"{to.rstrip('/')}/{_named(image)[0]}".lower()


def _named(image: Image) -> tuple[str, str]:
    """Return name and version of an image as people see them: of one with a variant or a model, the latter says it."""
    name, _, version = image.tag.rpartition("/")[2].partition(":")
    return name, version


def load_command(archive: Path) -> list[str]:
    """Return the command that gives Podman an image from its file."""
    return [PODMAN, "load", "--quiet", "--input", str(archive)]


def push_command(image: Image, where: str, digest_file: Path) -> list[str]:
    """Return the command that pushes an image by its id, so that it is the one that was written down."""
    return [
        *(PODMAN, "push", "--quiet", "--format", FORMAT, "--digestfile", str(digest_file)),
        *(image.id.removeprefix("sha256:"), f"docker://{where}:{_named(image)[1]}-{image.arch}"),
    ]


def list_commands(parts: Sequence[Published], version: str, digest_file: Path) -> list[list[str]]:
    """Return the commands that make one list of a name's images for all processors, and push it as its version."""
    references = [part.reference for part in parts]
    # One that could not be pushed is still there, and is of the same parts: they are in its name.
    of = hashlib.sha256(" ".join(references).encode()).hexdigest()[:12]
    name, where = f"localhost/{parts[0].name}-list:{version}-{of}", f"docker://{parts[0].repository}:{version}"
    return [
        [PODMAN, "manifest", "create", "--amend", name, *references],
        [
            *(PODMAN, "manifest", "push", "--quiet", "--all", "--rm", "--format", FORMAT),
            *("--digestfile", str(digest_file), name, where),
        ],
    ]


def entry(image: Image, published: Published, *, keep: bool = False) -> Image:
    """Return what is written down of an image that a registry has, and, but for `keep`, no folder."""
    files = {} if keep else {"archive": "", "sha256": "", "size": 0}
    return dataclasses.replace(image, **files, repository=published.repository, digest=published.digest)  # type: ignore[arg-type]


def publish(folders: Iterable[Path], to: str, out: Path, *, say: Say, keep: bool = False) -> list[Published]:
    """Push images and their lists, write `images.json` into `out`, and return all that has a digest; ArtefactError.

    With `keep` it goes on to name the files, which lie there.
    """
    known = [manifest.read(folder) for folder in folders]
    _check_versions(known)
    with tempfile.TemporaryDirectory(prefix="rbee-publish-") as scratch:
        digest_file = Path(scratch) / "digest"
        pairs = [(image, _push(images, image, to, digest_file, say)) for images in known for image in _in_order(images)]
        tags = dict.fromkeys(_named(image) for image, _published in pairs)
        lists = [
            _push_list([published for image, published in pairs if _named(image) == tag], tag[1], digest_file, say)
            for tag in tags
        ]
    out.mkdir(parents=True, exist_ok=True)
    with fresh_file(out / manifest.NAME) as draft:
        draft.write_text(manifest.text(entry(*pair, keep=keep) for pair in pairs), encoding="utf-8")
    return [*lists, *(published for _image, published in pairs)]


def _check_versions(known: Sequence[Images]) -> None:
    """Raise ArtefactError unless each image is there once, and all of one version."""
    found = [(":".join(_named(image)), image.arch) for images in known for image in images.images]
    twice = sorted({f"{name} for {arch}" for name, arch in found if found.count((name, arch)) > 1})
    if twice:
        raise ArtefactError(
            f"more than one folder has the image {twice[0]}: name one folder for each kind of processor"
        )
    versions = sorted({image.version for images in known for image in images.images})
    if len(versions) != 1:
        raise ArtefactError(
            f"the folders hold images of {' and '.join(versions) or 'no version'}, which is no release: "
            "build all images from one checkout"
        )


def _in_order(images: Images) -> list[Image]:
    return sorted(images.images, key=lambda image: tuple(Kind).index(image.name))


def _push(images: Images, image: Image, to: str, digest_file: Path, say: Say) -> Published:
    title = f"{image.name} for {image.arch}"
    where = repository(to, image)
    run(load_command(images.archive(image)), title=f"load the image {title}", say=say)
    run(push_command(image, where, digest_file), title=f"push the image {title} to {where}", say=say)
    say(f"{title}: pushed")
    return Published(name=_named(image)[0], arch=image.arch, repository=where, digest=_digest(digest_file, title))


def _push_list(parts: Sequence[Published], version: str, digest_file: Path, say: Say) -> Published:
    title = f"the list {parts[0].repository}:{version}"
    for command in list_commands(parts, version, digest_file):
        run(command, title=f"push {title}", say=say)
    say(f"{title}: pushed, for {', '.join(part.arch for part in parts)}")
    return dataclasses.replace(parts[0], arch="", digest=_digest(digest_file, title))


def _digest(file: Path, title: str) -> str:
    """Return the digest that Podman wrote, and take it away, so that no later one can be mistaken for it."""
    digest = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not _DIGEST.fullmatch(digest):
        raise ArtefactError(f"{PODMAN} pushed {title} and gave {digest!r} as its digest: look at the registry's answer")
    file.unlink()
    return digest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rbee_deploy.images.publish", description="push images to a registry"
    )
    parser.add_argument(
        "--to", required=True, metavar="REGISTRY/OWNER", help="what the names of repositories begin with"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where images.json goes")
    parser.add_argument("folders", nargs="+", type=Path, metavar="IMAGES", help="a folder of `rbee-deploy images`")
    options = parser.parse_args(arguments)
    try:
        published = publish(options.folders, options.to, options.out, say=say_to_stderr)
    except ArtefactError as error:
        say_to_stderr(str(error))
        return 1
    sys.stdout.write(json.dumps([dataclasses.asdict(each) for each in published]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
