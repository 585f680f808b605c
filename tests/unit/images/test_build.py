"""How images are built: the commands, and what their context installs."""

import shutil
from pathlib import Path

import pytest

from rbee_deploy.artefacts import Artefact, pack
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import build, context
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import Kind

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
