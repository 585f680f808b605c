"""Directories are made by root where a service could have laid a link, and no link is followed."""

import getpass
import grp
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_deploy.accounts import Directory
from rbee_deploy.operations.host import made

ME, GROUP = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name


def run(directory: Directory, *among: Directory) -> "subprocess.CompletedProcess[str]":
    script = made(directory, (*among, directory), python=sys.executable)
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


@pytest.fixture
def models(tmp_path: Path) -> Directory:
    """Give a directory that a service owns."""
    (tmp_path / "models").mkdir()
    return Directory(str(tmp_path / "models"), "rbee-hive", GROUP, "2750")


@pytest.mark.parametrize("there", [False, True])
def test_one_below_a_service_s_is_made_and_put_right(models: Directory, there: bool) -> None:
    """It has the owner and the mode that it should have, whether it was there or not."""
    path = Path(models.path, "blobs")
    if there:
        path.mkdir()
        path.chmod(0o711)
    done = run(Directory(str(path), ME, GROUP, "2750"), models)
    assert (done.returncode, done.stderr) == (0, "")
    assert oct(path.stat().st_mode & 0o7777) == "0o2750"


def test_a_link_below_a_service_s_is_refused(models: Directory, tmp_path: Path) -> None:
    """What it leads to keeps its mode, and the sentence says what to do."""
    elsewhere, path = tmp_path / "etc", Path(models.path, "blobs")
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    path.symlink_to(elsewhere)
    done = run(Directory(str(path), ME, GROUP, "2750"), models)
    assert (done.returncode, done.stderr) == (
        1,
        f"{path} is not a directory; remove it and run the same command again\n",
    )
    assert oct(elsewhere.stat().st_mode & 0o7777) == "0o755"


def test_elsewhere_a_link_is_the_operator_s_choice() -> None:
    """One whose parent is root's is made by the usual program."""
    assert made(Directory("/opt/rbee"), (), python="python3").startswith("install -d -o root")
