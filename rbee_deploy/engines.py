"""Engine artefacts: an engine's build with its Python dependencies, apart from the control plane's release."""

import json
import re
import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from rbee_deploy import installs, pins, wheels
from rbee_deploy.artefacts import Artefact, Say, Target, cache_root, described, digest_of, locked, pack, say_to_stderr
from rbee_deploy.engine_builds import (
    BUILDS,
    THREAD_LIBRARY,
    EngineBuild,
    build_wheel,
    built_key,
    is_compiled,
)
from rbee_deploy.errors import ArtefactError
from rbee_deploy.pins import Pin

__all__ = ["build_engine", "install_script", "is_cached"]

SITE = "site-packages"
_GLIBC = re.compile(rb"\0GLIBC_2\.(\d+)")


def build_engine(
    name: str,
    variant: str,
    target: Target,
    cache: Path | None = None,
    *,
    say: Say = say_to_stderr,
) -> Artefact:
    """Return `<name>-<version>-<variant>-<hash8>` for `target`: a tar of engine.json and site-packages/.

    engine.json holds name, version, variant, python, arch, glibc (the least that a host needs) and site. The hash is
    of what goes into the build, not of the compiler's output. The artefact says its glibc too: `target` may have an
    older one than the build needs, and who brings it there has to look. Raises ArtefactError.
    """
    build, root = _known(name, variant), cache or cache_root()
    dependencies = _dependencies(build, target)
    engine = _id(name, variant, build, target)
    archive = _archive(root, engine)
    with locked(archive):
        if not archive.is_file():
            wheel = build_wheel(build, target, root, say=say)
            facts = {"name": name, "version": build.version, "variant": variant}
            _bundle(wheel, dependencies, target, facts, archive, root, say)
    return replace(described(engine, archive), glibc=_least_glibc(archive))


def is_cached(name: str, variant: str, target: Target, cache: Path | None = None) -> bool:
    """Say whether `build_engine` has nothing to compile. Raises ArtefactError for an unknown build."""
    build, root = _known(name, variant), cache or cache_root()
    return _archive(root, _id(name, variant, build, target)).is_file() or is_compiled(build, root)


def _known(name: str, variant: str) -> EngineBuild:
    build = BUILDS.get((name, variant))
    if build is None:
        known = ", ".join(f"{engine} {variant}" for engine, variant in BUILDS)
        raise ArtefactError(f"this version has no engine build {name} {variant}: it knows {known}")
    return build


def _dependencies(build: EngineBuild, target: Target) -> tuple[Pin, ...]:
    return tuple(pin for pin in pins.read(build.requirements, target) if pin.name != build.distribution)


def _id(name: str, variant: str, build: EngineBuild, target: Target) -> str:
    lines = (pin.line() for pin in _dependencies(build, target))
    return f"{name}-{build.version}-{variant}-{digest_of(built_key(build), target.python, *lines)[:8]}"


def _archive(root: Path, engine: str) -> Path:
    return root / "artefacts" / f"engine-{engine}.tar"


def _bundle(
    wheel: Path,
    dependencies: tuple[Pin, ...],
    target: Target,
    facts: dict[str, str],
    archive: Path,
    cache: Path,
    say: Say,
) -> None:
    folder = wheels.download(dependencies, target, cache, say=say)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        site = tree / SITE
        for path in [*sorted(folder.glob("*.whl")), wheel]:
            _unpack(path, site)
        _slim(site)
        shutil.copyfile(wheel.parent / THREAD_LIBRARY, site / "llama_cpp" / "lib" / THREAD_LIBRARY)
        manifest = {**facts, "python": target.python, "arch": target.arch, "glibc": needed_glibc(site), "site": SITE}
        text = json.dumps(manifest, sort_keys=True) + "\n"
        (tree / "engine.json").write_text(text, encoding="utf-8")
        archive.with_suffix(".json").write_text(text, encoding="utf-8")
        pack(tree, archive)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        wanted = [name for name in archive.namelist() if not name.startswith(("include/", "lib/", "bin/"))]
        archive.extractall(site, [name for name in wanted if ".data/" not in name])


def _slim(site: Path) -> None:
    """Drop test folders, and turn the copies of a library that a wheel must carry back into links to its soname."""
    for folder in [path for path in site.rglob("tests") if path.is_dir()]:
        shutil.rmtree(folder)
    for soname in site.glob("llama_cpp/lib/*.so.[0-9]"):
        for copy in soname.parent.glob(f"{soname.name}.*"):
            copy.unlink()
        plain = soname.with_suffix("")
        plain.unlink()
        plain.symlink_to(soname.name)


def needed_glibc(site: Path) -> str:
    """Return the newest glibc symbol version, as `2.N`, that any library under `site` asks for."""
    minors = [
        int(minor) for path in site.rglob("*.so*") if path.is_file() for minor in _GLIBC.findall(path.read_bytes())
    ]
    return f"2.{max(minors, default=0)}"


def _least_glibc(archive: Path) -> str:
    return str(json.loads(archive.with_suffix(".json").read_text(encoding="utf-8"))["glibc"])


def install_script(archive: str, destination: str, *, python: str = "python3") -> tuple[tuple[str, ...], ...]:
    """Return the commands that unpack an engine archive; the last gives it its name, in place of whatever is there."""
    made = installs.made_in(destination)
    return (
        *installs.begin(destination),
        ("install", "-d", "-m", "0755", made),
        ("tar", "-C", made, "--no-same-owner", "-xf", archive),
        (python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", f"{made}/{SITE}"),
        *installs.finish(destination),
    )
