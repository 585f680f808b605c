"""Make a container image on a host out of the host's own files: its Python, what that links to, and the release.

Runs on the host as root with the release's Python: `python worker_image.py NAME podman|docker`. No registry is
reachable from a host, and the image's content does not matter to the launchers as long as a real worker starts in it.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

RELEASE = Path(sys.prefix).resolve()
STANDARD = Path(os.__file__).parent
LINKED = re.compile(r"(/\S+) \(0x")
# Files of an image that no package brings: a name for root, and where the engines mount things.
FOLDERS = ("tmp", "proc", "sys", "dev", "run", "etc", "usr/local/bin")


def binaries() -> list[Path]:
    """Return the interpreter and every compiled module of the standard library and the release."""
    modules = [*STANDARD.rglob("*.so"), *RELEASE.rglob("*.so"), *RELEASE.rglob("*.so.*")]
    return [Path(sys.executable).resolve(), *modules]


def libraries(files: list[Path]) -> set[Path]:
    """Return the shared libraries of the host that these files load, and the loader itself."""
    text = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    named = {Path(name) for name in LINKED.findall(text)}
    return {path for path in named if not path.is_relative_to(RELEASE)}


def content() -> Iterator[Path]:
    """Return all that goes into the image, by the names that programs use."""
    yield from libraries(binaries())
    yield Path(sys.executable).resolve()
    yield STANDARD
    yield RELEASE


def pack() -> bytes:
    """Return the image's tree as a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path in content():
            tar.add(path.resolve(), arcname=path, filter=lambda entry: None if "__pycache__" in entry.name else entry)
        for link, target in links().items():
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return packed.getvalue()


def links() -> dict[str, str]:
    """Return links that make `rbee-worker` and the interpreter found by the names that they are called by."""
    launched = (RELEASE / "bin/python").readlink()
    real = Path(sys.executable).resolve()
    found = {"usr/local/bin/rbee-worker": str(RELEASE / "bin/rbee-worker")}
    return found if launched == real else {**found, str(launched)[1:]: str(real)}


def give(name: str, engine: str) -> None:
    """Hand the tree to an engine as an image."""
    tree = pack()
    if engine == "podman":
        subprocess.run(["podman", "import", "--quiet", "-", name], input=tree, check=True, stdout=subprocess.DEVNULL)
        return
    import docker  # noqa: PLC0415 - a second of imports that the other engine does without

    docker.DockerClient("unix:///run/docker.sock").api.import_image_from_data(tree, repository=name)


if __name__ == "__main__":
    give(*sys.argv[1:])
