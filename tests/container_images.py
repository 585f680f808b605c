"""The images of rbee, built once on a lab host with the product's own commands, and kept by content.

`python -m tests.container_images` builds them and prints their folder and sizes.
"""

import hashlib
import shlex
import sys
import tempfile
from pathlib import Path

from demo.build import LAB_TARGET
from rbee_deploy import engines, releases
from rbee_deploy.artefacts import cache_root, cached_dir
from rbee_deploy.images import build, context, manifest
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import USUAL, Kind
from rbee_deploy.local import DEFAULT_VARIANT
from tests.lab import Lab, LabHost, ensure_image
from tests.lab.recipes import BASE, RECIPES

NAME = "localhost/rbee-base:lab"
BUILD_SECONDS = 300.0
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
"""A build asks for a million of each, which is more than a host of the lab may have."""

SHIM = """\
#!{python}
import shlex, sys
sys.path.insert(0, {root!r})
from tests.lab import Lab

words = ["podman", *sys.argv[1:]]
if words[1] == "build":
    words[2:2] = {limits!r}
done = Lab.open({lab!r}).hosts[{host!r}].run(shlex.join(words), check=False, timeout=600)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""
CONTEXT, BASE_TREE, OUT = "/srv/context", "/srv/base", "/srv/images"


def podman_on(lab: str, host: str, folder: Path) -> None:
    """Put a Podman into a folder that is the one of a lab host, since this machine may have none.

    What it reads and writes has to lie under the same path there.
    """
    folder.mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parent.parent)
    shim = folder / "podman"
    shim.write_text(SHIM.format(python=sys.executable, root=root, lab=lab, host=host, limits=LIMITS))
    shim.chmod(0o755)


def parts() -> Parts:
    """Return what goes into the images."""
    engine = engines.build_engine("llama-cpp", DEFAULT_VARIANT, LAB_TARGET)
    return Parts(release=releases.build_release(None, LAB_TARGET), uv=releases.uv_binary(LAB_TARGET), engine=engine)


def lab_images(revision: str = "") -> Path:
    """Return the folder of images, built first if it is not in the cache (a minute or two).

    Those of another `revision` have the same in them and other ids.
    """
    inside = parts()
    assert inside.engine is not None
    version = inside.release.id.rpartition("-")[0]
    recipe = Recipe(version=version, arch=LAB_TARGET.arch, base=NAME, revision=revision, options=LIMITS)
    commands = [" ".join(build.command(kind, recipe, inside, CONTEXT)) for kind in USUAL]
    scripts = (context.release_script(inside.release.id), context.engine_script(inside))
    written = (context.containerfile().read_text(), *scripts, *commands, BASE.digest, RECIPES["containers"].digest)
    key = hashlib.sha256("\0".join(written).encode()).hexdigest()[:16]
    return cached_dir(cache_root() / "images" / key, lambda draft: _build(recipe, inside, draft))


def _build(recipe: Recipe, inside: Parts, out: Path) -> None:
    out.chmod(0o755)
    with tempfile.TemporaryDirectory() as scratch, Lab.create("images") as lab:
        folder = Path(scratch)
        folder.chmod(0o755)
        context.write(folder, inside)
        binds = [(folder, CONTEXT, True), (ensure_image(BASE.name), BASE_TREE, True), (out, OUT, False)]
        host = lab.add_host("builder", image="containers", binds=binds)
        host.run(f"tar -C {BASE_TREE} --one-file-system -c . | podman import --quiet - {NAME}", timeout=BUILD_SECONDS)
        made = [_one(host, kind, recipe, inside, out) for kind in USUAL]
    (out / manifest.NAME).write_text(manifest.text(made))


def _one(host: LabHost, kind: Kind, recipe: Recipe, inside: Parts, out: Path) -> manifest.Image:
    print(f"image {kind}: building", file=sys.stderr)
    host.run(shlex.join(build.command(kind, recipe, inside, CONTEXT)), timeout=BUILD_SECONDS)
    identity = host.run(shlex.join(build.id_command(recipe.tag(kind)))).stdout
    name = recipe.archive_name(kind)
    host.run(shlex.join(build.save_command(recipe.tag(kind), f"{OUT}/{name}")), timeout=BUILD_SECONDS)
    return build.described(kind, recipe, inside, identity, out / name)


if __name__ == "__main__":
    where = lab_images()
    print(where)
    for image in manifest.read(where).images:
        print(f"{image.tag:45} {image.size / (1 << 20):7.1f} MiB  {image.id}")
