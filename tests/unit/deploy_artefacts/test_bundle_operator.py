"""The operator's part of a bundle installs where there is no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_deploy.artefacts import Target
from rbee_deploy.bundle import operator
from rbee_deploy.bundle.make import Makers, make
from tests.unit.deploy_artefacts.bundles import TRIXIE, Makings, quiet, two_boxes

pytestmark = pytest.mark.slow


def test_rbee_deploy_installs_and_runs_out_of_a_bundle(tmp_path: Path) -> None:
    """The note's own words, with no index, no cache and no home, give a program that verifies the bundle."""
    site, here, makings = two_boxes(tmp_path), Target.this_machine(), Makings(tmp_path)
    makers = Makers(
        source=makings,
        packages=lambda target: operator.packages(target, say=quiet),
        download=makings.download,
    )
    bundle = make(site, (TRIXIE,), tmp_path / "bundle", here, makers, quiet)
    note = (bundle.folder / "operator" / operator.NOTE).read_text()
    commands = [line.strip() for line in note.splitlines() if line.startswith("    ")]
    assert [line.split()[0] for line in commands] == [
        "python3",
        "~/rbee-deploy/bin/pip",
        *["~/rbee-deploy/bin/rbee-deploy"] * 2,
    ]
    nowhere = {"PATH": f"{python_folder(tmp_path)}:{os.defpath}", "HOME": str(tmp_path), "PIP_NO_INDEX": "1"}
    for line in [*commands[:3], "~/rbee-deploy/bin/rbee-deploy --help"]:
        done = subprocess.run(
            ["sh", "-c", line], cwd=bundle.folder / "operator", env=nowhere, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert "bundle" in done.stdout


def python_folder(folder: Path) -> Path:
    """Return a folder in which `python3` is the interpreter that the wheels are for."""
    made = folder / "bin"
    made.mkdir()
    (made / "python3").symlink_to(Path(sys.executable).resolve())
    return made
