"""Build base images once and keep them by content."""

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.lab.commands import SLOW_S, output
from tests.lab.errors import LabError, LabUnavailableError
from tests.lab.places import CACHE_VARIABLE, image_cache, locked
from tests.lab.recipes import BASE, GUEST, RECIPES, Recipe

MIRROR_VARIABLE = "RBEE_LAB_MIRROR"
# A bare tree is 340 MB and debootstrap keeps the packages beside it until it ends.
NEEDED_BYTES = 1_500_000_000
# The mounts and daemons of a build live in namespaces that end with it, so an interrupted build leaves only files.
ISOLATED = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")


def ensure_image(name: str) -> Path:
    """Return the tree of a base image, built first if it is not in the cache (about a minute)."""
    recipe = _recipe(name)
    tree = image_cache() / recipe.folder
    if tree.is_dir():
        return tree
    with locked(tree.with_name(f"{tree.name}.lock"), variable=CACHE_VARIABLE):
        # Another run may have built it while this one waited.
        if not tree.is_dir():
            _build(recipe, tree)
    return tree


def _recipe(name: str) -> Recipe:
    try:
        return {**RECIPES, BASE.name: BASE, GUEST.name: GUEST}[name]
    except KeyError:
        raise LabError(f"there is no image called {name!r}: choose one of {', '.join(RECIPES)}") from None


def _build(recipe: Recipe, tree: Path) -> None:
    """Make the tree beside its place and rename it when it is complete."""
    partial = tree.with_name(f"{tree.name}.partial")
    remove_tree(partial)
    _require_space(tree.parent)
    started = time.monotonic()
    print(f"lab: building image {recipe.name} in {tree}, about a minute", file=sys.stderr)
    try:
        output(bootstrap_argv(recipe, partial), timeout=SLOW_S)
        output((*ISOLATED, "chroot", str(partial), "/bin/sh", "-euc", recipe.finish))
        partial.rename(tree)
    except BaseException:
        # What resists here, because a dying build still writes, goes before the next build.
        with suppress(LabError):
            remove_tree(partial)
        raise
    print(f"lab: image {recipe.name} ready after {time.monotonic() - started:.0f} s", file=sys.stderr)


def bootstrap_argv(recipe: Recipe, tree: Path) -> list[str]:
    """Return the debootstrap command; the mirror is debootstrap's default unless the environment names one."""
    include = f"--include={','.join(recipe.packages)}"
    argv = [*ISOLATED, "debootstrap", "--variant=minbase", include, recipe.suite, str(tree)]
    mirror = os.environ.get(MIRROR_VARIABLE)
    return [*argv, mirror] if mirror else argv


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise LabUnavailableError(
            f"{folder} has {free // 1_000_000} MB free and an image needs {NEEDED_BYTES // 1_000_000} MB: "
            f"free some or point {CACHE_VARIABLE} at another disk"
        )


def remove_tree(tree: Path) -> None:
    """Remove a tree as root without ever crossing into another file system.

    Five hosts with images of containers take a busy disk more than a minute.
    """
    if tree.exists():
        output(("rm", "--recursive", "--force", "--one-file-system", str(tree)), timeout=SLOW_S)
