"""Build tools in the cache serve every environment of this user, also when the one that put them there has gone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import wheels


def test_tools_outlive_the_environment_that_installed_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts that pip writes for an environment are run by the interpreter below it; programs stay as they are."""
    gone, program = tmp_path / "gone/bin/python", b"\x7fELF" + str(tmp_path / "gone/bin/python").encode()
    gone.parent.mkdir(parents=True)
    gone.symlink_to(os.path.realpath(sys.executable))

    def pip(command: tuple[str, ...], **_: Any) -> None:
        folder = Path(command[command.index("--target") + 1]) / "bin"
        folder.mkdir()
        (folder / "tool").write_text(f"#!{gone}\nprint('done')\n")
        (folder / "tool").chmod(0o755)
        (folder / "other").write_bytes(program)

    monkeypatch.setattr(wheels, "run", pip)
    monkeypatch.setattr(sys, "executable", str(gone))
    made = wheels.toolbox("lint-workflows.txt", tmp_path / "cache") / "bin"
    gone.unlink()
    done = subprocess.run([made / "tool"], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert (made / "other").read_bytes() == program
