"""What is installed appears whole, and is seen to be damaged when somebody changed it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_deploy import installs
from rbee_deploy.facts import script
from rbee_deploy.facts.state import RbeeState

NAME = "0.1.0-aaaaaaaa"
MARK = "release.json"


def install(folder: Path, text: str = "first") -> Path:
    """Install a small release there, as the deploy does, and return its place."""
    destination, made = str(folder / NAME), Path(installs.made_in(str(folder / NAME)))
    for command in installs.begin(destination):
        subprocess.run(command, check=True)
    (made / "lib" / "rbee").mkdir(parents=True)
    (made / "lib" / "rbee" / "main.py").write_text(text)
    (made / "lib" / "rbee" / "link.py").symlink_to("main.py")
    (made / MARK).write_text("{}")
    for command in installs.finish(destination):
        subprocess.run(command, check=True)
    return folder / NAME


def seen(folder: Path) -> dict[str, list[str]]:
    """Return what the fact says of what is installed there: names by how they are."""
    asked = "\n".join((installs.FUNCTIONS, script._installed("releases", str(folder), MARK)))
    done = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True)
    fact = RbeeState().process(["@sudo ok", *done.stdout.splitlines()])
    kinds = {"complete": "releases", "partial": "releases_partial", "damaged": "releases_damaged"}
    return {kind: fact[key] for kind, key in kinds.items() if fact[key]}


def rewrite(path: Path) -> None:
    path.write_text("other")
    os.utime(path, (1, 1))


MAIN = "lib/rbee/main.py"
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda _root: None, "complete"),
    "a package is gone": (lambda root: shutil.rmtree(root / "lib" / "rbee"), "damaged"),
    "a file is gone": (lambda root: (root / MAIN).unlink(), "damaged"),
    "a file is empty": (lambda root: (root / MAIN).write_text(""), "damaged"),
    "other text of the same size": (lambda root: rewrite(root / MAIN), "damaged"),
    "a file has another mode": (lambda root: (root / MAIN).chmod(0o604), "damaged"),
    "a folder has another mode": (lambda root: (root / "lib").chmod(0o705), "damaged"),
    "a link leads elsewhere": (
        lambda root: subprocess.run(["ln", "-sfn", "/etc/hosts", str(root / "lib/rbee/link.py")], check=True),
        "damaged",
    ),
    "a file was added": (lambda root: (root / "lib" / "sitecustomize.py").write_text(""), "damaged"),
    "its mark is gone": (lambda root: (root / MARK).unlink(), "partial"),
    "bytecode": (lambda root: (root / "lib/rbee/__pycache__").mkdir(), "complete"),
    "installed before there were listings": (lambda root: (root / installs.LISTING).unlink(), "complete"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_somebody_changed_is_seen(tmp_path: Path, name: str) -> None:
    """Whatever is gone, added or different makes it damaged; what Python writes, or no listing at all, does not."""
    change, kind = CHANGES[name]
    change(install(tmp_path))
    assert seen(tmp_path) == {kind: [NAME]}


def test_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    """Installed again it is whole, nothing is left beside it, and who has a file of the old one open keeps it."""
    with (install(tmp_path) / MAIN).open() as held:
        (tmp_path / NAME / "lib" / "rbee" / "link.py").unlink()
        install(tmp_path, "second")
        assert held.read() == "first"
    assert seen(tmp_path) == {"complete": [NAME]}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME / MAIN).read_text() == "second"


def test_an_install_that_was_cut_off_is_not_seen(tmp_path: Path) -> None:
    """Half of one beside its place counts as nothing, and the next install clears it."""
    half = Path(installs.made_in(str(tmp_path / NAME)))
    half.mkdir(parents=True)
    (half / "of-before").touch()
    (half / MARK).touch()
    assert seen(tmp_path) == {}
    assert not (install(tmp_path) / "of-before").exists()


def test_an_exchange_that_was_cut_off_loses_nothing(tmp_path: Path) -> None:
    """Where the old one was put aside and the new one not yet in its place, the next install begins by going back."""
    place = install(tmp_path)
    work = Path(installs.made_in(str(place))).parent
    work.mkdir()
    place.rename(work / "old")
    for command in installs.begin(str(place)):
        subprocess.run(command, check=True)
    assert seen(tmp_path) == {"complete": [NAME]}
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(("change", "says"), [("nothing", "there"), ("a file is gone", "lacking")])
def test_only_what_is_lacking_is_installed(tmp_path: Path, change: str, says: str) -> None:
    """An install that another run has finished in the meantime is left alone, one that is damaged is not."""
    CHANGES[change][0](install(tmp_path))
    line = f"set -e\n{installs.unless_whole(str(tmp_path / NAME), MARK)} || {{ echo there; exit 0; }}\necho lacking"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == says
