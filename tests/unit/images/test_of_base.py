"""The vLLM of a base image as workers see it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_deploy.images import of_base
from rbee_runtime.worker.engines import artefact


def base(tmp_path: Path) -> list[Path]:
    """Make the folders of packages of a base, of which the first has what counts."""
    places = [tmp_path / "local" / "dist-packages", tmp_path / "system" / "dist-packages"]
    for place in places:
        (place / "vllm").mkdir(parents=True)
        (place / "vllm" / "__init__.py").write_text(f"PLACE = {place.parent.name!r}\n")
    (places[1] / "torch_of_base.py").write_text("ANSWER = 1\n")
    return [*places, tmp_path / "absent"]


def test_a_worker_finds_the_packages_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an engine artefact like any other, in the base's own order, without a copy."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "vllm-of-base"
    of_base.lay_out(folder, base(tmp_path), "0.32.0")
    found = artefact.activate(folder, "vllm")
    assert (found.version, found.variant) == ("0.32.0", "base")
    import vllm  # type: ignore[import-not-found]  # noqa: PLC0415 - exists only now

    assert vllm.PLACE == "local"
    assert importlib.util.find_spec("torch_of_base") is not None
    assert all(path.is_symlink() for path in (folder / "site-packages").iterdir())
    assert json.loads((folder / "engine.json").read_text())["program"] == sys.executable


def test_a_base_without_it_is_one_sentence(tmp_path: Path) -> None:
    """The build ends with what to do; the script runs by itself, with nothing of ours installed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", of_base.__file__, tmp_path / "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the python3 of the base image finds no vllm: name a base that has it")
    assert not (tmp_path / "x").exists()
