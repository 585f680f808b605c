"""The part of the state fact about labels of SELinux, run for real beside a made-up policy."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.facts import selinux
from rbee_deploy.facts.state import RbeeState

STAT = """\
#!/bin/sh
# stat -L -c %C -- PATH
[ "$1 $2 $3 $4" = "-L -c %C --" ] && [ -e "$5" ] && echo "system_u:object_r:${5##*/}_t:s0"
"""
NOTHING: dict[str, Any] = {"enforcing": False, "labels": {}, "switches": []}


def read(root: Path, models_dir: Path, *caches: Path) -> tuple[dict[str, Any], str]:
    """Run the part with a folder's programs in front; return the fact and what went to standard error."""
    environment = {"PATH": f"{root}:{os.environ['PATH']}"}
    asked = selinux.script("podman", str(models_dir), tuple(map(str, caches)))
    done = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, env=environment, check=False)
    return RbeeState().process(["@sudo ok", *done.stdout.splitlines()])["selinux"], done.stderr


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a host's folder of SELinux, in force, with one switch on and one off."""
    folder = tmp_path / "selinux"
    (folder / "booleans").mkdir(parents=True)
    (folder / "enforce").write_text("1")
    (folder / "booleans/virt_use_nfs").write_text("1 1")
    (folder / "booleans/virt_use_samba").write_text("0 1")
    monkeypatch.setattr(selinux, "FOLDER", folder)
    (tmp_path / "stat").write_text(STAT)
    (tmp_path / "stat").chmod(0o755)
    return folder


def test_a_folder_has_its_label_and_one_to_come_that_of_the_folder_above(tmp_path: Path, policy: Path) -> None:
    """Setup makes models_dir and nothing of the operator's, of which only what is there is told."""
    (tmp_path / "a SEEN cache").mkdir()
    (tmp_path / "big").mkdir()
    models, cache = tmp_path / "big/MADE/models", tmp_path / "a SEEN cache"
    found, _ = read(tmp_path, models, cache, tmp_path / "gone")
    labels = {str(models): "system_u:object_r:big_t:s0", str(cache): "system_u:object_r:aSEENcache_t:s0"}
    assert found == {"enforcing": True, "labels": labels, "switches": ["virt_use_nfs"]}


@pytest.mark.parametrize("enforce", ["0", "", None])
def test_nothing_is_told_where_no_policy_is_in_force(enforce: str | None, tmp_path: Path, policy: Path) -> None:
    """A policy that is only tried out keeps nobody from anything."""
    (policy / "enforce").unlink()
    if enforce is not None:
        (policy / "enforce").write_text(enforce)
    assert read(tmp_path, tmp_path) == (NOTHING, "")


def test_a_disk_without_labels_has_none(tmp_path: Path, policy: Path) -> None:
    """What stat writes in place of a label is none."""
    (tmp_path / "stat").write_text("#!/bin/sh\necho '?'; exit 1\n")
    assert read(tmp_path, tmp_path)[0] == {**NOTHING, "enforcing": True, "switches": ["virt_use_nfs"]}


def test_only_hosts_with_containers_are_asked() -> None:
    """Processes of a bare host have no domain of containers."""
    assert selinux.script(None, "/m", ()) == ""
