"""The command `images`: which images it builds, and for which of them it compiles an engine."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import engines, releases
from rbee_deploy.artefacts import Artefact
from rbee_deploy.cli import imaging
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import build, manifest
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import Kind

CONTROL = ["--only", "queen", "--only", "hive"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Parts, list[Kind]]]:
    """Have nothing built on a machine that cannot compile an engine, and return what would have been."""
    calls: list[tuple[Recipe, Parts, list[Kind]]] = []
    made = Artefact(id="0.1.0-aa", archive=Path("/nowhere"), sha256="0", size=1)

    def built(recipe: Recipe, parts: Parts, out: Path, *, say: Any, kinds: Sequence[Kind], baked: Any) -> None:
        calls.append((recipe, parts, list(kinds)))
        image = manifest.Image(name=kinds[0], version="0.1.0", arch="x86_64", id=f"sha256:{'a' * 64}", tag="tag")
        (out / manifest.NAME).write_text(manifest.text([image]))

    def refused(*_words: Any) -> Artefact:
        raise ArtefactError("an engine for aarch64 cannot be built")

    monkeypatch.setattr(releases, "build_release", lambda *_words: made)
    monkeypatch.setattr(releases, "uv_binary", lambda *_words: made)
    monkeypatch.setattr(engines, "build_engine", refused)
    monkeypatch.setattr(build, "check_podman", lambda: None)
    monkeypatch.setattr(build, "build", built)
    return calls


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    imaging.register(parser.add_subparsers())
    options = parser.parse_args(["images", *words])
    options.document = False
    return int(options.run(options))


def test_images_without_an_engine_compile_none(asked: list[Any], tmp_path: Path) -> None:
    """Queen and hive can be built where the engine has no build; the revision goes into their labels."""
    assert run("--out", str(tmp_path), *CONTROL, "--revision", "abc") == 0
    ((recipe, parts, kinds),) = asked
    assert (kinds, parts.engine, recipe.revision) == ([Kind.QUEEN, Kind.HIVE], None, "abc")


@pytest.mark.parametrize("words", [[], ["--only", "worker-llama-cpp"]])
def test_workers_are_not_left_out_unasked(words: list[str], asked: list[Any], tmp_path: Path) -> None:
    """Where the engine cannot be compiled, all images or those of workers are refused, and none is built."""
    with pytest.raises(ArtefactError, match="an engine for aarch64 cannot be built"):
        run("--out", str(tmp_path), *words)
    assert asked == []


def test_an_old_podman_is_told_before_anything_is_made(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling an engine takes minutes, so the machine is looked at first."""

    def refuse() -> None:
        raise ArtefactError("Podman is too old")

    monkeypatch.setattr(build, "check_podman", refuse)
    with pytest.raises(ArtefactError, match="Podman is too old"):
        run("--out", str(tmp_path))
    assert asked == []


def test_an_image_that_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ones that there are, are named."""
    with pytest.raises(SystemExit):
        run("--out", str(tmp_path), "--only", "toaster")
    assert "worker-llama-cpp" in capsys.readouterr().err
