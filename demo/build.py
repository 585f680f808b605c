"""Everything expensive that the demo and the tests need, made into the cache."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.engines import build_engine, is_cached
from rbee_deploy.local import DEFAULT_VARIANT
from rbee_deploy.model_files import lab_model
from rbee_deploy.releases import build_release, uv_binary

LAB_TARGET = Target(python="3.13", arch="x86_64", glibc="2.41")
"""Debian 13, which the lab's hosts run."""


def missing_compiler(target: Target = LAB_TARGET) -> tuple[str, ...]:
    """Return the package of the compiler if there is something to compile and nothing to do it with."""
    there = shutil.which("c++") or shutil.which("g++") or not must_compile(target)
    return () if there else ("g++",)


def must_compile(target: Target = LAB_TARGET) -> bool:
    """Say whether the engine is not in the cache yet."""
    return not is_cached("llama-cpp", DEFAULT_VARIANT, target)


def build_all(target: Target = LAB_TARGET) -> tuple[Artefact | Path, ...]:
    """Build or find engine, release, uv and lab model, the downloads beside the compiler."""
    with ThreadPoolExecutor() as pool:
        release, uv = pool.submit(build_release, None, target), pool.submit(uv_binary, target)
        model = pool.submit(lab_model)
        # The compiler runs in this thread, where Ctrl-C arrives.
        engine = build_engine("llama-cpp", DEFAULT_VARIANT, target)
        return (engine, release.result(), uv.result(), model.result())
