"""Engines that were built elsewhere: which of them are taken, and what is said of the others."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.artefacts import Target, file_sha256
from rbee_deploy.engine_archives import given_engine
from rbee_deploy.errors import ArtefactError

TARGET = Target(python="3.13", arch="x86_64")
FACTS = {
    "name": "llama-cpp",
    "version": "0.3.36",
    "variant": "cuda12-x86_64_v3",
    "python": "3.13",
    "arch": "x86_64",
    "glibc": "2.39",
    "site": "site-packages",
}


def archive(where: Path, facts: object, *others: str, prefix: str = "") -> Path:
    """Write a tar with an engine.json, if any, and empty files of other names."""
    path = where / "engine.tar"
    with tarfile.open(path, "w") as tar:
        content = json.dumps(facts).encode() if facts is not None else b""
        for name, data in [*(((f"{prefix}engine.json", content),) if content else ()), *((o, b"") for o in others)]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("variant", ["cuda12", ""])
def test_a_fitting_engine_is_taken_as_it_is(tmp_path: Path, prefix: str, variant: str) -> None:
    """It is known by its own words and the hash of the file."""
    path = archive(tmp_path, FACTS, "site-packages/llama_cpp/__init__.py", prefix=prefix)
    made = given_engine(path, "llama-cpp", TARGET, variant=variant)
    digest = file_sha256(path)
    assert made.id == f"llama-cpp-0.3.36-cuda12-x86_64_v3-{digest[:8]}"
    assert (made.archive, made.sha256, made.size, made.glibc) == (path, digest, path.stat().st_size, "2.39")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "vllm"}, "says name 'vllm', and 'llama-cpp' is needed"),
        ({"python": "3.12"}, "says python '3.12', and '3.13' is needed"),
        ({"arch": "aarch64"}, "says arch 'aarch64', and 'x86_64' is needed"),
        ({"site": "lib"}, "says site 'lib', and 'site-packages' is needed"),
        ({"variant": "cuda13-x86_64_v3"}, "says variant 'cuda13-x86_64_v3', and one of 'cuda12' is needed"),
        ({"variant": "cuda123"}, "says variant 'cuda123', and one of 'cuda12' is needed"),
        ({"version": "../.."}, "has no plain version and variant"),
        ({"variant": "cuda12; rm"}, "has no plain version and variant"),
        ({"version": None}, "has no plain version and variant"),
    ],
)
def test_another_engine_is_refused_by_what_it_says(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Name, Python, processor, layout and variant all have to be what the image needs."""
    with pytest.raises(ArtefactError, match=rf"engine\.tar is not the engine that is needed: .*{said}"):
        given_engine(archive(tmp_path, FACTS | change), "llama-cpp", TARGET, variant="cuda12")


@pytest.mark.parametrize(
    ("facts", "others", "said"),
    [
        (None, ("site-packages/x",), r"it has no engine\.json"),
        ([1], (), r"it has no engine\.json"),
        (FACTS, ("../outside",), "outside the destination"),
    ],
)
def test_another_archive_is_refused(tmp_path: Path, facts: object, others: tuple[str, ...], said: str) -> None:
    """One without a description, or with files that would land elsewhere."""
    with pytest.raises(ArtefactError, match=said):
        given_engine(archive(tmp_path, facts, *others), "llama-cpp", TARGET)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, r"cannot read the engine .*No such file.*; correct the path"), (b"no tar", "is not the engine")],
)
def test_no_archive_is_one_sentence(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A path to nothing, or to something else."""
    path = tmp_path / "engine.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtefactError, match=said):
        given_engine(path, "llama-cpp", TARGET)
