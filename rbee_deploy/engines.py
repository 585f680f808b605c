"""Engine artefacts: an engine's build with its Python dependencies, apart from the control plane's release."""

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rbee_deploy import installs, pins, server_builds, wheels
from rbee_deploy.artefacts import Artefact, Say, Target, cache_root, described, digest_of, locked, pack, say_to_stderr
from rbee_deploy.command_engines import CommandEngine
from rbee_deploy.engine_builds import (
    BUILDS,
    NUMA_LIBRARY,
    THREAD_LIBRARY,
    EngineBuild,
    Made,
    build_wheel,
    built_key,
    is_compiled,
    numa_library,
    thread_library,
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
    if build.python and target.python != build.python:
        raise ArtefactError(
            f"engine {name} {variant} is there for Python {build.python} and the host has {target.python}: use a host "
            "with that Python, such as Debian 12 for 3.11, or an image of workers"
        )
    engine = _id(name, variant, build, target)
    archive = _archive(root, engine)
    with locked(archive):
        if not archive.is_file():
            facts = {"name": name, "version": build.version, "variant": variant}
            with _scratch(archive) as tree:
                facts |= _FILL[build.made](build, target, tree, root, say)
                _pack(tree, target, facts, archive)
    return replace(described(engine, archive), glibc=_least_glibc(archive))


def is_cached(name: str, variant: str, target: Target, cache: Path | None = None) -> bool:
    """Say whether `build_engine` has nothing to compile. Raises ArtefactError for an unknown build."""
    build, root = _known(name, variant), cache or cache_root()
    compiled = {Made.LIBRARY: is_compiled, Made.PROGRAM: server_builds.is_server_compiled}
    kept = _archive(root, _id(name, variant, build, target)).is_file()
    return kept or build.made is Made.WHEELS or compiled[build.made](build, root)


def _known(name: str, variant: str) -> EngineBuild:
    build = BUILDS.get((name, variant))
    if build is None:
        known = ", ".join(f"{engine} {variant}" for engine, variant in BUILDS)
        raise ArtefactError(f"this version has no engine build {name} {variant}: it knows {known}")
    return build


def _dependencies(build: EngineBuild, target: Target) -> tuple[Pin, ...]:
    return tuple(pin for pin in pins.read(build.requirements, target) if pin.name != build.distribution)


def _id(name: str, variant: str, build: EngineBuild, target: Target) -> str:
    match build.made:
        case Made.PROGRAM:
            parts = ["2", server_builds.server_key(build)]
        case Made.WHEELS:
            parts = [_SLIMMED, *(pin.line() for pin in pins.read(build.requirements, target))]
        case Made.LIBRARY:
            parts = [built_key(build), target.python, *(pin.line() for pin in _dependencies(build, target))]
    return f"{name}-{build.version}-{variant}-{digest_of(*parts)[:8]}"


def _archive(root: Path, engine: str) -> Path:
    return root / "artefacts" / f"engine-{engine}.tar"


@contextmanager
def _scratch(archive: Path) -> Iterator[Path]:
    """Yield a folder beside the archive: engines are gigabytes, and /tmp may be memory."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".engine-") as folder:
        (Path(folder) / SITE).mkdir()
        yield Path(folder)


def _with_library(build: EngineBuild, target: Target, tree: Path, cache: Path, say: Say) -> dict[str, str]:
    """Fill the tree with a compiled wheel and what it needs."""
    wheel = build_wheel(build, target, cache, say=say)
    folder = wheels.download(_dependencies(build, target), target, cache, say=say)
    site = tree / SITE
    for path in [*sorted(folder.glob("*.whl")), wheel]:
        _unpack(path, site)
    _slim(site)
    shutil.copyfile(wheel.parent / THREAD_LIBRARY, site / "llama_cpp" / "lib" / THREAD_LIBRARY)
    return {"python": target.python}


def _with_program(build: EngineBuild, target: Target, tree: Path, cache: Path, say: Say) -> dict[str, str]:
    """Fill the tree with llama.cpp's server and the library that hosts lack."""
    if target.arch != build.arch:
        raise ArtefactError(f"an engine for {build.arch} cannot be built for {target.arch} hosts")
    program = server_builds.compiled(build, cache, say=say)
    shutil.copy2(program, tree / server_builds.PROGRAM)
    shutil.copyfile(thread_library(), tree / THREAD_LIBRARY)
    return {"program": server_builds.PROGRAM}


def _with_wheels(build: EngineBuild, target: Target, tree: Path, cache: Path, say: Say) -> dict[str, str]:
    """Fill the tree with packages that others have compiled, under the name by which vLLM looks itself up."""
    folder = wheels.download(pins.read(build.requirements, target), target, cache, say=say)
    site = tree / SITE
    for path in sorted(folder.glob("*.whl")):
        _unpack(path, site)
    for path in [path for name in _UNUSED for path in site.glob(name)]:
        shutil.rmtree(path)
    # Of its own version it asks a distribution of the plain name, and by the version whether it is for processors.
    named = site / f"vllm-{build.version}+cpu.dist-info"
    named.mkdir()
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {build.version}+cpu\n"
    (named / "METADATA").write_text(text, encoding="utf-8")
    shutil.copyfile(numa_library(), tree / NUMA_LIBRARY)
    return {"python": target.python}


_FILL = {Made.LIBRARY: _with_library, Made.PROGRAM: _with_program, Made.WHEELS: _with_wheels}

_SLIMMED = "3"
_UNUSED = ("torch/test", "*/tests")
"""What no worker of vLLM loads: tests of the packages."""


def command_artefact(engine: CommandEngine, cache: Path | None = None) -> Artefact:
    """Return the artefact of a server that the inventory describes: an engine.json and nothing else."""
    facts = engine.manifest()
    text = json.dumps(facts, sort_keys=True)
    name = f"{engine.name}-{engine.version}-{digest_of(text)[:8]}"
    archive = _archive(cache or cache_root(), name)
    with locked(archive):
        if not archive.is_file():
            with _scratch(archive) as tree:
                (tree / "engine.json").write_text(f"{text}\n", encoding="utf-8")
                pack(tree, archive)
    return described(name, archive)


def _pack(tree: Path, target: Target, facts: dict[str, str], archive: Path) -> None:
    manifest = {**facts, "arch": target.arch, "glibc": needed_glibc(tree), "site": SITE}
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


def needed_glibc(tree: Path) -> str:
    """Return the newest glibc symbol version, as `2.N`, that any library or server in `tree` asks for."""
    found = [path for name in ("*.so*", server_builds.PROGRAM) for path in tree.rglob(name) if path.is_file()]
    minors = [int(minor) for path in found for minor in _GLIBC.findall(path.read_bytes())]
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
        # Without the packages' own tests, some of which are for other versions of Python.
        (
            python,
            "-m",
            "compileall",
            "-q",
            "-j",
            "0",
            "-x",
            "/testing/",
            "--invalidation-mode",
            "unchecked-hash",
            f"{made}/{SITE}",
        ),
        *installs.finish(destination),
    )
