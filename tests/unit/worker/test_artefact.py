"""Engine artefacts and the registry of engines."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from rbee_runtime.errors import ConfigError, EngineLoadError
from rbee_runtime.worker import engines
from rbee_runtime.worker.engines import artefact
from tests.unit.worker.serving import fake_launch

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GOOD = {"name": "toy", "version": "1", "variant": "cpu", "python": PYTHON, "site": "site-packages"}


def lay_out(directory: Path, **changes: str) -> Path:
    (directory / "site-packages").mkdir()
    (directory / "site-packages" / "toy_engine_package.py").write_text("ANSWER = 42\n")
    (directory / "engine.json").write_text(json.dumps(GOOD | changes))
    return directory


def test_packages_of_an_artefact_become_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come after the release's own packages, so that they cannot replace one."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    artefact.activate(lay_out(tmp_path), "toy")
    assert sys.path[-1] == str(tmp_path / "site-packages")
    import toy_engine_package  # type: ignore[import-not-found]  # noqa: PLC0415 - exists only now

    assert toy_engine_package.ANSWER == 42


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "3.9"}, f"is built for Python 3.9, this worker runs {PYTHON}"),
        ({"name": "other"}, "holds other, not toy"),
        ({"site": "lib"}, "has no folder 'lib'"),
        ({"site": "../.."}, "has no folder '../..'"),
    ],
)
def test_an_artefact_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    """The reason is engine_missing, so that the hive waits for a deploy instead of trying again."""
    before = list(sys.path)
    with pytest.raises(EngineLoadError, match=message) as failure:
        artefact.activate(lay_out(tmp_path, **changes), "toy")
    assert failure.value.reason == "engine_missing"
    assert sys.path == before


@pytest.mark.parametrize("content", [None, "{", '{"name": "toy"}'])
def test_a_folder_without_an_engine_is_refused(tmp_path: Path, content: str | None) -> None:
    """An absent or damaged engine.json names the folder."""
    if content is not None:
        (tmp_path / "engine.json").write_text(content)
    with pytest.raises(EngineLoadError, match=str(tmp_path)):
        artefact.activate(tmp_path, "toy")


def test_an_unknown_engine_is_named() -> None:
    """A mistyped engine gets the nearest known one."""
    launch = fake_launch()
    spec = msgspec.structs.replace(launch.worker, engine="llama-ccp")
    with pytest.raises(ConfigError, match="unknown engine 'llama-ccp'; did you mean 'llama-cpp'"):
        engines.create(msgspec.structs.replace(launch, worker=spec))


@pytest.mark.parametrize("options", [{"thread": 1}, {"threads": "many"}, {"gpu_layers": -1}])
def test_wrong_engine_options_get_one_sentence(options: dict[str, int | str]) -> None:
    """llama-cpp names its options when one is wrong."""
    launch = fake_launch()
    spec = msgspec.structs.replace(launch.worker, engine="llama-cpp", options=options)
    with pytest.raises(ConfigError, match=r"option of engine llama-cpp is wrong: .*; known: gpu_layers, threads"):
        engines.create(msgspec.structs.replace(launch, worker=spec))
