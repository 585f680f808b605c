"""The control-plane release: every wheel that a host needs for rbee itself, and the commands that install it there."""

import json
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

from rbee_deploy import installs, pins, wheels
from rbee_deploy.artefacts import (
    Artefact,
    Say,
    Target,
    cache_root,
    described,
    digest_of,
    file_sha256,
    pack,
    say_to_stderr,
)
from rbee_deploy.own_wheel import own_wheel

KEPT = 10
"""Archives in the cache, 12 MB each: enough for checkouts that take turns."""

IN_USE_SECONDS = 7200.0
"""A younger one may be on its way to hosts right now, in another run on this machine."""

__all__ = ["Artefact", "Target", "build_release", "install_script", "uv_binary"]


def build_release(
    version: str | None, target: Target, cache: Path | None = None, *, say: Say = say_to_stderr
) -> Artefact:
    """Return the release `<version>-<hash8>` for `target`: tar of release.json, requirements.txt and wheels/*.whl.

    `version` None means the version at hand. The id follows from the wheels' hashes alone, so that the same sources
    give the same id on any machine. Raises ArtefactError.
    """
    root = cache or cache_root()
    own = own_wheel(version, root, say=say)
    wanted = pins.read("runtime.txt", target)
    folder = wheels.download(wanted, target, root, say=say)
    files = sorted([own, *folder.glob("*.whl")], key=lambda path: path.name)
    requirements = "".join(f"{_pinned(path)}\n" for path in files)
    number = own.name.split("-")[1]
    release = f"{number}-{digest_of(requirements, target.python, target.arch)[:8]}"
    archive = root / "artefacts" / f"release-{release}.tar"
    if not archive.is_file():
        _bundle(release, number, requirements, files, target, archive)
        _prune(archive)
    archive.touch()
    return described(release, archive)


def _prune(newest: Path) -> None:
    """Remove all but the KEPT releases that were used last: every change of the sources makes one."""
    now = time.time()
    made = sorted(((path.stat().st_mtime, path) for path in newest.parent.glob("release-*.tar")), reverse=True)
    for used, archive in made[KEPT:]:
        if now - used > IN_USE_SECONDS:
            archive.unlink(missing_ok=True)


def _pinned(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{file_sha256(wheel)}"


def _bundle(release: str, version: str, requirements: str, files: list[Path], target: Target, archive: Path) -> None:
    manifest = {"id": release, "version": version, "python": target.python, "arch": target.arch}
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        (tree / "wheels").mkdir()
        for path in files:
            shutil.copyfile(path, tree / "wheels" / path.name)
        (tree / "requirements.txt").write_text(requirements, encoding="utf-8")
        (tree / "release.json").write_text(json.dumps(manifest, sort_keys=True) + "\n", encoding="utf-8")
        pack(tree, archive)


def uv_binary(target: Target, cache: Path | None = None, *, say: Say = say_to_stderr) -> Artefact:
    """Return `uv-<version>-<arch>-<hash8>` for `target`: a tar with the one executable `uv`."""
    root = cache or cache_root()
    pin = pins.only(pins.read("bootstrap.txt", target), "uv")
    (wheel,) = wheels.download([pin], target, root, say=say).glob("*.whl")
    name = f"uv-{pin.version}-{target.arch}-{file_sha256(wheel)[:8]}"
    archive = root / "artefacts" / f"{name}.tar"
    if not archive.is_file():
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as source:
            binary = Path(scratch) / "uv"
            binary.write_bytes(source.read(f"uv-{pin.version}.data/scripts/uv"))
            binary.chmod(0o755)
            pack(Path(scratch), archive)
    return described(name, archive)


def install_script(
    artefact_dir: str, destination: str, *, uv: str = "uv", python: str = "python3"
) -> tuple[tuple[str, ...], ...]:
    """Return the commands that turn an unpacked release into a venv at `destination`, offline and hash-checked.

    The last command gives it its name, in place of whatever is there; release.json in it marks it as complete.
    """
    offline = ("--offline", "--no-cache", "--no-config", "--quiet")
    made = installs.made_in(destination)
    return (
        *installs.begin(destination),
        (uv, "venv", *offline, "--python", python, "--no-python-downloads", made),
        (
            uv, "pip", "install", *offline, "--python", f"{made}/bin/python", "--no-index", "--no-deps",
            "--find-links", f"{artefact_dir}/wheels", "--require-hashes", "--link-mode", "copy", "--compile-bytecode",
            "--requirements", f"{artefact_dir}/requirements.txt",
        ),
        # What uv locked it with may be written by anybody, which would make it look damaged.
        ("rm", "-f", f"{made}/.lock"),
        # Scripts carry the path of their Python.
        ("find", f"{made}/bin", "-type", "f", "-exec", "sed", "-i", f"s|{made}|{destination}|g", "{}", "+"),
        ("install", "-m", "0644", f"{artefact_dir}/release.json", f"{made}/release.json"),
        *installs.finish(destination),
    )  # fmt: skip
