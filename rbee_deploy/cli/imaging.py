"""images: one folder with the images of containers."""

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path

import rbee_runtime
from rbee_deploy import engine_archives, engines, releases
from rbee_deploy._fields import registries
from rbee_deploy.artefacts import Artefact, Target, say_to_stderr
from rbee_deploy.cli import documents
from rbee_deploy.cli.arguments import Commands
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import baking, build, manifest, publish
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import PLAIN, USUAL, VLLM, Kind, Variant, base_of
from rbee_deploy.local import DEFAULT_VARIANT

HELP = "build the images of containers with Podman, into a folder that fleet(images=…) names"


def register(commands: Commands) -> None:
    """Add the command."""
    added: argparse.ArgumentParser = commands.add_parser("images", help=HELP, description=HELP)
    usual = f"{PLAIN.image} if left out, or {VLLM.image} for {Kind.WORKER_VLLM}"
    variant = f"what {Kind.WORKER_LLAMA_CPP} computes on (default: {Variant.CPU}); others need --engine and --base"
    added.add_argument("-o", "--out", required=True, type=Path, metavar="FOLDER", help="where they go")
    added.add_argument("--base", metavar="IMAGE", help=f"what they are built on, an image with python3; {usual}")
    added.add_argument("--python", metavar="3.N", help="the version of Python in that image")
    added.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[kind.value for kind in Kind],
        metavar="KIND",
        help=f"build only this: {', '.join(Kind)}; all but the last if left out",
    )
    added.add_argument(
        "--variant",
        default=Variant.CPU.value,
        choices=[each.value for each in Variant],
        metavar="VARIANT",
        help=f"{variant}: {', '.join(Variant)}",
    )
    added.add_argument("--revision", default="", metavar="COMMIT", help="of the sources, for the label of the images")
    added.add_argument("--engine", type=Path, metavar="ARCHIVE", help="a tar of the engine, built elsewhere")
    added.add_argument(
        "--bake",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help=f"also one of {Kind.WORKER_LLAMA_CPP} with this GGUF file inside, which it serves by that name",
    )
    added.add_argument(
        "--push",
        type=_registry,
        metavar="REGISTRY",
        help="also push them there (host:port/path, after `podman login`), and have hosts pull them by digest",
    )
    added.set_defaults(run=_images, inventory=None, limit=[])


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be built, put together from the options."""

    kinds: tuple[Kind, ...]
    variant: Variant
    base: str
    target: Target


def order(options: argparse.Namespace) -> Order:
    """Return what the options ask for; ArtefactError for what does not go together."""
    variant = Variant(options.variant)
    named = tuple(Kind(word) for word in dict.fromkeys(options.only))
    kinds = named or (USUAL if variant is Variant.CPU else (Kind.WORKER_LLAMA_CPP,))
    if variant is not Variant.CPU:
        _check_variant(options, variant, kinds)
    _check_kinds(options, kinds)
    base = base_of(kinds[0])
    target = Target(python=options.python or base.python, arch=platform.machine(), glibc=base.glibc)
    return Order(kinds=kinds, variant=variant, base=options.base or base.image, target=target)


def _check_kinds(options: argparse.Namespace, kinds: tuple[Kind, ...]) -> None:
    if Kind.WORKER_VLLM in kinds and len(kinds) > 1:
        raise ArtefactError(
            f"{Kind.WORKER_VLLM} has a base of its own: build it by a run of its own with the same --out, "
            f"`rbee-deploy images --only {Kind.WORKER_VLLM}`"
        )
    if options.bake and Kind.WORKER_LLAMA_CPP not in kinds:
        raise ArtefactError(f"--bake puts a model into {Kind.WORKER_LLAMA_CPP}: name that by --only as well")
    if options.engine is not None and not any(kind.engine for kind in kinds):
        raise ArtefactError("--engine is for images of workers, and --only names none: leave one of them out")


def _check_variant(options: argparse.Namespace, variant: Variant, kinds: tuple[Kind, ...]) -> None:
    if kinds != (Kind.WORKER_LLAMA_CPP,):
        raise ArtefactError(f"--variant {variant} is for {Kind.WORKER_LLAMA_CPP} alone: leave --only out")
    if options.engine is None:
        raise ArtefactError(
            f"this version builds no engine for {variant}: give one that is built elsewhere by --engine ARCHIVE, "
            "a tar of engine.json and site-packages/"
        )
    if options.base is None:
        raise ArtefactError(
            f"--variant {variant} needs --base IMAGE: one with python3 and the {variant} libraries that the engine uses"
        )


def _engine(options: argparse.Namespace, wanted: Order) -> Artefact | None:
    """Return the engine for the images of workers; None where none has one, or has that of its base."""
    kind = next((kind for kind in wanted.kinds if kind.engine), None)
    if kind is None:
        return None
    if options.engine is not None:
        archive = options.engine.expanduser().absolute()
        variant = wanted.variant.value if kind.varied else ""
        return engine_archives.given_engine(archive, kind.engine, wanted.target, variant=variant)
    return engines.build_engine(kind.engine, DEFAULT_VARIANT, wanted.target) if kind.varied else None


def _images(options: argparse.Namespace) -> int:
    wanted = order(options)
    baked = [baking.asked(text) for text in options.bake]
    baking.check_apart(baked)
    # Before an engine is compiled, which takes minutes.
    build.check_podman()
    parts = Parts(
        engine=_engine(options, wanted),
        release=releases.build_release(None, wanted.target),
        uv=releases.uv_binary(wanted.target),
    )
    recipe = Recipe(
        version=rbee_runtime.__version__,
        arch=wanted.target.arch,
        base=wanted.base,
        revision=options.revision,
        variant=wanted.variant,
    )
    folder = options.out.expanduser().absolute()
    build.build(recipe, parts, folder, say=say_to_stderr, kinds=wanted.kinds, baked=baked)
    if options.push:
        publish.publish([folder], options.push, folder, say=say_to_stderr, keep=True)
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
    more = {"variant": image.variant, "model": image.model}
    return {"name": image.name.value, "tag": image.tag, "id": image.id, "bytes": image.size, **more}
