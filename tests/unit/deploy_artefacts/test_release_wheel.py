"""The script that gives a release its wheel."""

import subprocess
from pathlib import Path

import pytest

import rbee_runtime
from rbee_deploy.own_wheel import own_wheel

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "release-wheel"
VERSION = rbee_runtime.__version__


def run(tag: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), tag, "dist"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("tag", [VERSION, f"v{VERSION}"])
def test_a_release_has_the_wheel_that_hosts_get(tag: str, tmp_path: Path) -> None:
    """The same bytes, whether or not the tag has a `v`."""
    assert run(tag, tmp_path).returncode == 0
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name == f"rbee-{VERSION}-py3-none-any.whl"
    assert wheel.read_bytes() == own_wheel(None).read_bytes()


def test_a_tag_of_another_version_is_refused(tmp_path: Path) -> None:
    """With one sentence, and without a wheel."""
    done = run("v99.0", tmp_path)
    assert done.returncode == 1
    said = (
        f"release-wheel: the tag is v99.0 but pyproject.toml and rbee_runtime say {VERSION}: tag the release v{VERSION}"
    )
    assert done.stderr.splitlines() == [said]
    assert list((tmp_path / "dist").iterdir()) == []
