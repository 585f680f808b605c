"""Show workers the vLLM that came with a base image as an engine artefact, which it would be elsewhere.

It is run by that image's own `python3` in a build, and so knows the standard library alone. The folder gets links to
the packages, not copies of these gigabytes, and an engine.json that also names the `program` that has them installed.
"""

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

NAME = "vllm"
SITE = "site-packages"
_FOLDERS = (SITE, "dist-packages")


def main(arguments: Sequence[str]) -> None:
    """Make the folder that is the one argument; SystemExit with a sentence where the base has no vLLM."""
    (folder,) = arguments
    if importlib.util.find_spec(NAME) is None:
        sys.exit(
            f"the python3 of the base image finds no {NAME}: name a base that has it, or give an engine by --engine"
        )
    lay_out(Path(folder), [Path(place) for place in sys.path if Path(place).name in _FOLDERS], metadata.version(NAME))


def lay_out(folder: Path, places: Iterable[Path], version: str) -> None:
    """Fill a folder that is not there yet with links to what is in `places`, the first of equal names."""
    site = folder / SITE
    site.mkdir(parents=True)
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            link = site / path.name
            if not os.path.lexists(link):
                link.symlink_to(path)
    facts = {
        "name": NAME,
        "version": version,
        "variant": "base",
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "arch": platform.machine(),
        "site": SITE,
        "program": sys.executable,
    }
    (folder / "engine.json").write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
