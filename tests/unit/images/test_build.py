"""How images are built: the commands, and what their context installs."""

import re
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
def test_equal_content_is_an_equal_image(kind: Kind, parts: Parts) -> None:
    """Times do not count, the base is as it was named, and the format is one that knows health checks."""
    command = build.command(kind, RECIPE, parts, "/context")
    assert command[:2] == ["podman", "build"]
    assert command[command.index("--timestamp") + 1] == "0"
    assert command[command.index("--format") + 1] == "docker"
    assert {"BASE=base@sha256:1", "VERSION=0.1.0", "REVISION=abc"} <= set(command)
    assert command[command.index("--target") + 1] == kind.value
    assert command[command.index("--tag") + 1] == f"localhost/rbee-{kind}:0.1.0"


def test_a_variant_is_in_the_tag_the_file_and_a_label(parts: Parts) -> None:
    """But for the usual one, and only for the image that comes in variants."""
    recipe = replace(RECIPE, variant=Variant.CUDA12)
    command = build.command(Kind.WORKER_LLAMA_CPP, recipe, parts, "/context")
    assert "VARIANT=cuda12" in command
    assert command[command.index("--tag") + 1] == "localhost/rbee-worker-llama-cpp:0.1.0-cuda12"
    assert recipe.archive_name(Kind.WORKER_LLAMA_CPP) == "rbee-worker-llama-cpp-0.1.0-cuda12-x86_64.tar"
    assert RECIPE.archive_name(Kind.WORKER_LLAMA_CPP) == "rbee-worker-llama-cpp-0.1.0-x86_64.tar"
    for kind in (Kind.QUEEN, Kind.HIVE, Kind.WORKER_VLLM):
        assert "VARIANT" not in "".join(build.command(kind, recipe, parts, "/context"))
        assert recipe.tag(kind) == RECIPE.tag(kind)


def digests(kind: Kind, parts: Parts) -> dict[str, str]:
    """Return the digests that a build is given."""
    words = build.command(kind, RECIPE, parts, "/context")
    given = dict(word.split("=", 1) for at, word in enumerate(words) if words[at - 1] == "--build-arg")
    return {name: value for name, value in given.items() if name.endswith("_DIGEST")}


@pytest.mark.parametrize(
    ("part", "changed"), [("release", ["RELEASE_DIGEST"]), ("uv", ["RELEASE_DIGEST"]), ("engine", ["ENGINE_DIGEST"])]
)
@pytest.mark.parametrize("of", [{"sha256": "1"}, {"id": "0.2.0-cc"}], ids=["content", "name"])
def test_no_layer_of_other_content_is_taken_from_a_cache(
    parts: Parts, part: str, changed: list[str], of: dict[str, str]
) -> None:
    """What is mounted counts for nothing in some caches, so the line says what it is, and the same for the same."""
    if part == "uv" and "id" in of:
        changed = []  # where it lies in the context does not depend on it
    before = digests(Kind.WORKER_LLAMA_CPP, parts)
    after = digests(Kind.WORKER_LLAMA_CPP, replace(parts, **{part: replace(getattr(parts, part), **of)}))
    assert [name for name in before if before[name] != after[name]] == changed
    assert before == digests(Kind.WORKER_LLAMA_CPP, parts)


@pytest.mark.parametrize("kind", Kind)
def test_a_build_is_given_the_digests_of_its_own_stages(kind: Kind, parts: Parts) -> None:
    """One without an engine is not told of one, and the engine of a base has a digest too."""
    wanted = {"RELEASE_DIGEST", "ENGINE_DIGEST"} if kind.engine else {"RELEASE_DIGEST"}
    for inside in (parts, replace(parts, engine=None)):
        found = digests(kind, inside)
        assert found.keys() == wanted
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in found.values())


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


def has_podman(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Have this machine a Podman that says what it is, and for any image an id."""

    def said(words: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, stdout=version if "--version" in words else f"{'f' * 64}\n")

    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/podman")
    monkeypatch.setattr(subprocess, "run", said)


@pytest.fixture
def podman(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Have the commands of Podman noted, each archive written, and every image have an id."""
    called: list[Sequence[str]] = []

    def run(words: Sequence[str], **_: object) -> None:
        called.append(words)
        if words[1] == "save":
            Path(words[words.index("--output") + 1]).write_text(words[-1])

    has_podman(monkeypatch, "podman version 5.4.2\n")
    monkeypatch.setattr(build, "run", run)
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


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("podman version 4.4.4\n", "Podman 4.4.4 on this machine is older than 4.5, the oldest that builds images"),
        ("podman version 4.3.1\n", "upgrade it, or build them on another machine"),
        ("", "building images needs podman, and `podman --version` names none here: mend it"),
    ],
)
def test_a_podman_that_cannot_build_is_refused(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch, version: str, says: str
) -> None:
    """In one sentence, before anything is written."""
    has_podman(monkeypatch, version)
    with pytest.raises(ArtefactError, match=says):
        build.build(RECIPE, parts, tmp_path / "out", say=print)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("version", ["4.5.0", "4.9.3", "5.0.0-dev", "5.10.1"])
def test_a_podman_that_builds_is_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """The oldest one with `RUN --network`, and newer ones by number, not by letter."""
    has_podman(monkeypatch, f"podman version {version}\n")
    build.check_podman()
