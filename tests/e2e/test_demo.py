"""`make demo` where it is hardest: without root, and on a machine that has systemd as PID 1."""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_deploy.artefacts import cache_root
from tests.e2e.fleets import ROOT
from tests.lab import Lab, LabHost
from tests.lab.recipes import RECIPES

pytestmark = pytest.mark.lab

NOBODY = 65534
DEMO_SECONDS = 540
ANSWER = "tokens/s"


def image_like_this_machine() -> str:
    """Return the image of this machine's own release where there is one, because its engine is in the cache."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    return codename if codename in RECIPES else "trixie"


def copy_checkout(target: Path) -> None:
    """Copy what git tracks, and what it would, to another folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    """Give a checkout, a cache and a home that belong to a user without rights."""
    # Outside the folder for tests, which only root may enter.
    home = Path(tempfile.mkdtemp(prefix="rbee-nobody-", dir="/var/tmp"))
    copy_checkout(home / "rbee")
    # The compiled engine too: the artefact for this machine's Python may not have been asked for yet.
    for folder in ("artefacts", "engine-builds", "models"):
        unwanted = shutil.ignore_patterns("release-*", "uv-*", ".*")  # drafts of other tests come and go
        shutil.copytree(cache_root() / folder, home / "cache" / "rbee" / folder, ignore=unwanted)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", home], check=True)
    yield home
    shutil.rmtree(home, ignore_errors=True)


def test_without_root_the_same_answer_comes_from_this_machine(home_of_nobody: Path) -> None:
    """A user without root is told so in one sentence and gets a streamed answer from an attached hive."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PYTHON", "RBEE_"))}
    done = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "make", "demo"],
        cwd=home_of_nobody / "rbee",
        env={**settings, "HOME": str(home_of_nobody), "XDG_CACHE_HOME": str(home_of_nobody / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not root" in done.stdout
    assert ANSWER in done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHost]:
    """Give a machine that runs systemd and has a checkout, and nothing else that the demo needs but make."""
    checkout = tmp_path_factory.mktemp("checkout")
    copy_checkout(checkout)
    with Lab.create("outer") as lab:
        binds = ((checkout, "/srv/rbee", False), (cache_root(), "/root/.cache/rbee", False))
        host = lab.add_host("machine", image=image_like_this_machine(), online=True, nested=True, binds=binds)
        host.run("apt-get -q update && apt-get -q -y install --no-install-recommends make", timeout=180)
        yield host


def test_a_machine_with_systemd_shows_the_demo(machine: LabHost) -> None:
    """The whole demo runs on a machine with systemd; again it changes nothing; demo-down leaves no host behind."""
    first = machine.run("cd /srv/rbee && make demo 2>&1", timeout=DEMO_SECONDS).stdout
    assert ANSWER in first
    assert "active (running)" in first
    again = machine.run("cd /srv/rbee && make demo 2>&1", timeout=DEMO_SECONDS).stdout
    assert "deployed: 0 changes" in again
    machine.run("cd /srv/rbee && make demo-down", timeout=60)
    assert "rbl" not in machine.run("ip -brief link; systemctl list-units --all --no-legend 'rbl*'").stdout
