"""How images are built: the commands, and what their context installs."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy.artefacts import Artefact, pack
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import build, context, manifest
from rbee_deploy.images.baking import Baked
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import Kind, Variant

RECIPE = Recipe(version="0.1.0", arch="x86_64", base="base@sha256:1", revision="abc")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """Give made-up archives of a release, a tool and an engine."""
    made = {}
    for name, file in (("0.1.0-aa", "release.json"), ("uv-1", "uv"), ("llama-cpp-1-bb", "engine.json")):
        tree = tmp_path / name
        tree.mkdir()
        (tree / file).write_text(name)
        archive = tmp_path / f"{name}.tar"
        pack(tree, archive)
        made[file] = Artefact(id=name, archive=archive, sha256="0", size=1)
    return Parts(release=made["release.json"], uv=made["uv"], engine=made["engine.json"])


@pytest.mark.parametrize("kind", Kind)
def test_equal_content_is_an_equal_image(kind: Kind) -> None:
    """Times do not count, the base is as it was named, and the format is one that knows health checks."""
    command = build.command(kind, RECIPE, "/context")
    assert command[:2] == ["podman", "build"]
    assert command[command.index("--timestamp") + 1] == "0"
    assert command[command.index("--format") + 1] == "docker"
    assert {"BASE=base@sha256:1", "VERSION=0.1.0", "REVISION=abc"} <= set(command)
    assert command[command.index("--target") + 1] == kind.value
    assert command[command.index("--tag") + 1] == f"localhost/rbee-{kind}:0.1.0"


def test_a_variant_is_in_the_tag_the_file_and_a_label() -> None:
    """But for the usual one, and only for the image that comes in variants."""
    recipe = replace(RECIPE, variant=Variant.CUDA12)
    command = build.command(Kind.WORKER_LLAMA_CPP, recipe, "/context")
    assert "VARIANT=cuda12" in command
    assert command[command.index("--tag") + 1] == "localhost/rbee-worker-llama-cpp:0.1.0-cuda12"
    assert recipe.archive_name(Kind.WORKER_LLAMA_CPP) == "rbee-worker-llama-cpp-0.1.0-cuda12-x86_64.tar"
    assert RECIPE.archive_name(Kind.WORKER_LLAMA_CPP) == "rbee-worker-llama-cpp-0.1.0-x86_64.tar"
    for kind in (Kind.QUEEN, Kind.HIVE, Kind.WORKER_VLLM):
        assert "VARIANT" not in "".join(build.command(kind, recipe, "/context"))
        assert recipe.tag(kind) == RECIPE.tag(kind)


def test_a_model_goes_into_the_image_of_its_variant() -> None:
    """It is built on that one, says name and hash, and has a tag of its own."""
    baked = Baked("Org/Smol:Q4", Path("/srv/smol.gguf"), "ab" * 32)
    command = build.bake_command(baked, replace(RECIPE, variant=Variant.VULKAN), "/context")
    worker = "localhost/rbee-worker-llama-cpp:0.1.0-vulkan"
    assert {f"WORKER={worker}", "MODEL=Org/Smol:Q4", f"SHA256={'ab' * 32}"} <= set(command)
    assert command[command.index("--tag") + 1] == f"{worker}-org-smol-q4"
    assert command[command.index("--file") + 1] == "/context/Containerfile.model"
    assert command[command.index("--timestamp") + 1] == "0"


def test_the_engine_of_a_base_is_shown_to_workers(tmp_path: Path, parts: Parts) -> None:
    """Where the base brings it, no archive is unpacked: its own Python finds the packages."""
    folder = tmp_path / "context"
    folder.mkdir()
    context.write(folder, replace(parts, engine=None))
    assert not (folder / "engine.tar").exists()
    assert "python3 /context/of_base.py /opt/rbee/engines/vllm-of-base" in (folder / "install-engine").read_text()
    assert (folder / "of_base.py").is_file()


@pytest.fixture
def podman(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Have the commands of Podman noted, each archive written, and every image have an id."""
    called: list[Sequence[str]] = []

    def run(words: Sequence[str], **_: object) -> None:
        called.append(words)
        if words[1] == "save":
            Path(words[words.index("--output") + 1]).write_text(words[-1])

    def inspect(words: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, stdout=f"{'f' * 64}\n")

    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/podman")
    monkeypatch.setattr(build, "run", run)
    monkeypatch.setattr(subprocess, "run", inspect)
    return called


def test_a_folder_keeps_what_is_not_built_anew(tmp_path: Path, parts: Parts, podman: list[Sequence[str]]) -> None:
    """Other kinds, variants and models stay in it; what has the same name, or the same file, is replaced."""
    file, out = tmp_path / "smol.gguf", tmp_path / "out"
    file.write_bytes(b"GGUF")
    one, same = (Baked(name, file, "ab" * 32) for name in ("org/smol", "org-smol"))
    worker = (Kind.WORKER_LLAMA_CPP,)
    build.build(RECIPE, parts, out, say=print)
    build.build(replace(RECIPE, variant=Variant.ROCM), parts, out, say=print, kinds=worker)
    build.build(RECIPE, parts, out, say=print, kinds=worker, baked=[one])
    build.build(RECIPE, parts, out, say=print, kinds=worker, baked=[same])
    known = manifest.read(out).images
    assert sorted((image.name.value, image.variant, image.model) for image in known) == [
        ("hive", "", ""),
        ("queen", "", ""),
        ("worker-llama-cpp", "cpu", ""),
        ("worker-llama-cpp", "cpu", "org-smol"),
        ("worker-llama-cpp", "rocm", ""),
    ]
    assert {path.name for path in out.iterdir()} == {manifest.NAME, *(image.archive for image in known)}
    assert [image.model_sha256 for image in known if image.model] == ["ab" * 32]


def test_the_context_installs_what_hosts_get(tmp_path: Path, parts: Parts) -> None:
    """Release and engine go where hosts have them, offline and by their hashes, with bytecode that no time spoils."""
    folder = tmp_path / "context"
    folder.mkdir()
    context.write(folder, parts)
    assert (folder / "release/release.json").read_text() == "0.1.0-aa"
    assert (folder / "tools/uv").read_text() == "uv-1"
    assert (folder / "engine.tar").is_file()
    assert (folder / context.CONTAINERFILE).read_text() == context.containerfile().read_text()
    release, engine = ((folder / name).read_text() for name in ("install-release", "install-engine"))
    for word in ("--offline", "--require-hashes", "UNCHECKED_HASH", "releases/0.1.0-aa /opt/rbee/current"):
        assert word in release
    assert "/opt/rbee/engines/llama-cpp-1-bb" in engine


def test_a_machine_without_podman_says_so(tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ArtefactError, match="needs podman and this machine has none: apt-get install podman"):
        build.build(RECIPE, parts, tmp_path / "out", say=print)
    assert not (tmp_path / "out").exists()
