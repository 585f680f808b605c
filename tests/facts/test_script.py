"""The script behind the state fact, run for real on this machine."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.facts import script
from rbee_deploy.facts.state import Asked, RbeeState

ODD = ["plain", "with space", "it's", "$(touch pwned)", "`id`", 'say "hi"', "-n", "semi;colon", "glob*", "back\\slash"]


def read(asked: Asked, folder: Path) -> dict[str, Any]:
    """Run the script and return the fact."""
    done = subprocess.run(["sh", "-c", script.build(asked)], capture_output=True, text=True, cwd=folder, check=True)
    return RbeeState().process(done.stdout.splitlines())


@pytest.mark.parametrize("name", ODD)
def test_any_path_is_read_as_itself(tmp_path: Path, name: str) -> None:
    """Hash, mode and kind of a file come back under its own name, and the name runs nothing."""
    path = tmp_path / name
    path.write_bytes(b"\0content")
    path.chmod(0o640)
    found = read(Asked(paths=(str(path), str(tmp_path / "absent"))), tmp_path)["paths"]
    assert list(found) == [str(path)]
    assert found[str(path)]["sha256"] == hashlib.sha256(b"\0content").hexdigest()
    assert (found[str(path)]["kind"], found[str(path)]["mode"]) == ("file", "0640")
    assert {item.name for item in tmp_path.iterdir()} == {name}


def test_links_and_directories_are_told_apart(tmp_path: Path) -> None:
    """A link shows its target and no hash, so that a file behind a link never counts as in place."""
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    paths = tuple(str(path) for path in (tmp_path / "link", tmp_path))
    link, folder = read(Asked(paths=paths), tmp_path)["paths"].values()
    assert (link["kind"], link["target"], link.get("sha256")) == ("link", "real", None)
    assert folder["kind"] == "directory"


def test_a_model_store_is_listed(tmp_path: Path) -> None:
    """Manifests come with their content and blobs with their size; what only links elsewhere is left out."""
    store = tmp_path / "big disk"
    for name in ("manifests", "blobs", "incoming"):
        (store / name).mkdir(parents=True)
    (store / "manifests" / "smol.json").write_text('{"name": "smol",\n "size": 3}\n')
    (store / "manifests" / "evil.json").symlink_to("/etc/passwd")
    (store / "blobs" / "sha256-aa").write_bytes(b"abc")
    (store / "incoming" / "aa.part").write_bytes(b"a")
    fact = read(Asked(models_dir=str(store)), tmp_path)
    assert fact["models"] == [{"slug": "smol", "name": "smol", "size": 3}]
    assert (fact["blobs"], fact["incoming"]["aa.part"]) == ({"sha256-aa": 3}, 1)


def test_this_machine_is_recognised(tmp_path: Path) -> None:
    """What every Linux machine has is there: architecture, clock, disk, and the account that was asked about."""
    fact = read(Asked(users=("root", "nobody-here"), groups=("root", "no-such-group")), tmp_path)
    assert fact["users"] == {"root": ["root"]}
    assert fact["groups"] == ["root"]
    assert fact["clock_unix"] > 1.7e9
    assert min(fact["disk_free"].values()) > 0
    assert fact["sudo"] == "ok"
