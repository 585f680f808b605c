"""images: one folder with the images of containers."""

import argparse
import platform
from pathlib import Path

import rbee_runtime
from rbee_deploy import engines, releases
from rbee_deploy._fields import registries
from rbee_deploy.artefacts import Target, say_to_stderr
from rbee_deploy.cli import documents
from rbee_deploy.cli.arguments import Commands
from rbee_deploy.images import build, manifest, pushing
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.local import DEFAULT_VARIANT

HELP = "build the images of containers with Podman, into a folder that fleet(images=…) names"


def register(commands: Commands) -> None:
    """Add the command."""
    added: argparse.ArgumentParser = commands.add_parser("images", help=HELP, description=HELP)
    added.add_argument("-o", "--out", required=True, type=Path, metavar="FOLDER", help="where they go")
    added.add_argument(
        "--base",
        default=build.BASE,
        metavar="IMAGE",
        help=f"what they are built on, an image with python3; {build.BASE} if left out",
    )
    added.add_argument("--python", default=Target.python, metavar="3.N", help="the version of Python in that image")
    added.add_argument(
        "--push",
        type=_registry,
        metavar="REGISTRY",
        help="also push them there (host:port/path, after `podman login`), and have hosts pull them by digest",
    )
    added.set_defaults(run=_images, inventory=None, limit=[])


def _images(options: argparse.Namespace) -> int:
    target = Target(python=options.python, arch=platform.machine())
    parts = Parts(
        release=releases.build_release(None, target),
        uv=releases.uv_binary(target),
        engine=engines.build_engine("llama-cpp", DEFAULT_VARIANT, target),
    )
    recipe = Recipe(version=rbee_runtime.__version__, arch=target.arch, base=options.base)
    folder = options.out.expanduser().absolute()
    build.build(recipe, parts, folder, say=say_to_stderr)
    if options.push:
        pushing.push(folder, options.push, say=say_to_stderr)
    made = manifest.read(folder).images
    width = max(len(image.tag) for image in made)
    lines = [f"{image.tag:<{width}}  {image.size / (1 << 20):7.1f} MiB  {image.id}" for image in made]
    documents.tell(options, "\n".join(lines), folder=str(folder), images=[_row(image) for image in made])
    return 0


def _registry(text: str) -> str:
    try:
        return registries([text])[0]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _row(image: manifest.Image) -> dict[str, str | int]:
    return {"name": image.name.value, "tag": image.tag, "id": image.id, "bytes": image.size}
