"""llama.cpp's own server, compiled from the sources inside the binding's archive with the flags of the engine."""

import shutil
import tarfile
from pathlib import Path

from rbee_deploy import pins
from rbee_deploy.artefacts import Say, cache_root, cached_dir, digest_of, say_to_stderr
from rbee_deploy.commands import run
from rbee_deploy.engine_builds import BUILDS, EngineBuild, built_key
from rbee_deploy.errors import ArtefactError
from rbee_deploy.wheels import PIP, tool_environment, toolbox

PROGRAM = "llama-server"

PROJECT = """\
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL
  set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
"""
"""As the engine's own project file, but with `common`, which the server is made of."""

OFF = (
    *("BUILD_SHARED_LIBS", "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI"),
    *("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP"),
)
"""One program without libraries beside it; no web page, which would be downloaded, and no TLS, which is our front's."""

ON = ("LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER")


def build_server(variant: str, cache: Path | None = None, *, engine: str = PROGRAM, say: Say = say_to_stderr) -> Path:
    """Return the program, compiled once (some minutes) with the options of an engine's build; ArtefactError if not."""
    build, root = BUILDS.get((engine, variant)), cache or cache_root()
    if build is None:
        raise ArtefactError(f"there is no build {engine} {variant} whose server could be compiled")
    return compiled(build, root, say=say)


def compiled(build: EngineBuild, cache: Path, *, say: Say) -> Path:
    """Return the program of a build."""
    return cached_dir(_folder(build, cache), lambda draft: _compile(build, draft, cache, say)) / PROGRAM


def server_key(build: EngineBuild) -> str:
    """Return what decides the compiled result."""
    return digest_of(built_key(build), PROJECT, *OFF, *ON)


def is_server_compiled(build: EngineBuild, cache: Path) -> bool:
    """Say whether the program is kept."""
    return _folder(build, cache).is_dir()


def _folder(build: EngineBuild, cache: Path) -> Path:
    return cache / "engine-builds" / f"server-{server_key(build)[:16]}"


def _compile(build: EngineBuild, draft: Path, cache: Path, say: Say) -> None:
    tools = toolbox("engine-build.txt", cache, say=say)
    environment = tool_environment(tools)
    source, made = draft / "source", draft / "build"
    _unpack(build, draft, source, environment, say)
    project = draft / "project.cmake"
    project.write_text(PROJECT, encoding="utf-8")
    run(configure_command(build, source, made, project), title=f"prepare {PROGRAM}", say=say, environment=environment)
    ninja = ("ninja", "-C", str(made), PROGRAM)
    run(ninja, title=f"compile {PROGRAM} {build.version} (some minutes, once)", say=say, environment=environment)
    shutil.move(made / "bin" / PROGRAM, draft / PROGRAM)
    for folder in (source, made):
        shutil.rmtree(folder)


def _unpack(build: EngineBuild, draft: Path, source: Path, environment: dict[str, str], say: Say) -> None:
    listing = draft / "requirements.txt"
    listing.write_text(pins.only(pins.read(build.requirements), build.distribution).line(), encoding="utf-8")
    command = (
        *PIP, "download", "--quiet", "--no-deps", "--no-build-isolation", "--require-hashes", "--no-binary",
        build.distribution, "--dest", str(draft), "--requirement", str(listing),
    )  # fmt: skip
    run(command, title=f"download {build.distribution} {build.version}", say=say, environment=environment)
    archive = next(draft.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(source, filter="data")
    archive.unlink()


def configure_command(build: EngineBuild, source: Path, made: Path, project: Path) -> tuple[str, ...]:
    """Return the command that prepares the build in `made` from an unpacked archive in `source`."""
    tree = next(source.glob("*/vendor/llama.cpp"), source)
    return (
        *("cmake", "-G", "Ninja", "-S", str(tree), "-B", str(made), "-DCMAKE_BUILD_TYPE=Release"),
        *build.options(),
        *(f"-D{name}=OFF" for name in OFF),
        *(f"-D{name}=ON" for name in ON),
        f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={project}",
    )
