"""Ctrl-C in the first second: while a program imports, or while scripts/bootstrap makes its environment."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.queen.units import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SLOW = """
import os, pathlib, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SLOW_IMPORT"]:
            pathlib.Path(os.environ["SLOW_MARK"]).touch()
            time.sleep(float(os.environ["SLOW_SECONDS"]))

sys.meta_path.insert(0, Slow())
"""
LAPTOP = ["rbee_runtime.queen.main", "--attached-hive", "--model", "m=fake:", "--port", "0", "--state-dir"]


def interrupted(command: list[str], mark: Path, **environment: str) -> tuple[int, str]:
    """Send Ctrl-C's signal to the program and its children once the mark is there; return status and stderr."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: mark.exists() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def interrupted_import(tmp_path: Path, arguments: list[str], module: str, *, seconds: float) -> tuple[int, str]:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    mark = tmp_path / "mark"
    slow = {"SLOW_IMPORT": module, "SLOW_MARK": str(mark), "SLOW_SECONDS": str(seconds)}
    command = [sys.executable, "-m", *arguments]
    return interrupted(command, mark, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}", **slow)


@pytest.mark.parametrize(
    ("arguments", "module", "ends_with"),
    [
        (["rbee_runtime.keeper.main", "hives"], "typer", 130),
        (["rbee_runtime.queen.main", "--attached-hive"], "pydantic", 130),
        (["rbee_deploy.main", "plan", "-i", "x.py"], "pyinfra_cli", 1),
        (["demo", "down"], "rbee_deploy.artefacts", 130),
    ],
    ids=["keeper", "queen", "deploy", "demo"],
)
def test_an_import_is_interrupted_without_a_traceback(
    tmp_path: Path, arguments: list[str], module: str, ends_with: int
) -> None:
    """At most one line, however early Ctrl-C comes, and the exit status that the program has for it."""
    status, said = interrupted_import(tmp_path, arguments, module, seconds=30)
    assert status == ends_with
    assert len(said.strip().splitlines()) <= 1
    assert "Traceback" not in said


def test_a_queen_that_starts_is_interrupted_without_a_traceback(tmp_path: Path) -> None:
    """Ctrl-C reaches the serving child in the middle of its imports too; it ends in order."""
    arguments = [*LAPTOP, str(tmp_path / "state")]
    status, said = interrupted_import(tmp_path, arguments, "rbee_runtime.queen.serving", seconds=1)
    assert (status, "Traceback" in said, "KeyboardInterrupt" in said) == (0, False, False)


@pytest.mark.parametrize("phase", ["venv", "pip"])
def test_bootstrap_is_interrupted_with_one_line(tmp_path: Path, phase: str) -> None:
    """What Python says about Ctrl-C is not shown; the user reads what to do."""
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "clone")
    mark, python = tmp_path / "mark", tmp_path / "bin" / "python3.13"
    slow = f'exec {sys.executable} -c "open(\\"{mark}\\", \\"w\\"); import time; time.sleep(30)"'
    made = '[ "$3" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"'
    steps = {"venv": f'[ "$2" = venv ] && {slow}', "pip": f'[ "$2" = venv ] && {{ {made}; exit; }}\n[ "$4" ] && {slow}'}
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{steps[phase]}\nexit 0\n")
    python.chmod(0o755)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(tmp_path / "clone" / "scripts" / "bootstrap")]
    assert interrupted(command, mark, PATH=path) == (130, "\nbootstrap: interrupted; run the same command again\n")
