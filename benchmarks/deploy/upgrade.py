"""Another release: a copy of the checkout with one comment more."""

import shutil
from pathlib import Path

from rbee_deploy.own_wheel import SOURCES

ALSO = ("benchmarks", "config.py", "demo")
"""What the benchmark itself and plain pyinfra read of a checkout, beside what the release is made of."""


def copy_checkout(root: Path, target: Path) -> Path:
    """Return `target`, a copy of what a deploy from `root` reads, whose release has another id."""
    for name in (*SOURCES, *ALSO):
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copyfile(root / name, target / name)
    with (target / "rbee_runtime" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\n# The next release.\n")
    return target
