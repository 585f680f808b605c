"""What is removed after a deploy, and what never is."""

import subprocess
import sys
from pathlib import Path

import pytest

from rbee_deploy.activator import activation, blobs, places, pruning
from rbee_deploy.activator.__main__ import main
from rbee_deploy.activator.activation import Told
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import FakeSystemd, staged, state


def names(folder: Path) -> set[str]:
    """Return what lies in a folder."""
    return {path.name for path in folder.iterdir()}


def engine(name: str) -> None:
    """Install an engine build."""
    (ports.ENGINES / name).mkdir()
    (ports.ENGINES / name / "engine.json").write_text("{}")


@pytest.fixture
def six(systemd: FakeSystemd) -> list[str]:
    """Give a host that went through six releases."""
    done = []
    for number in range(1, 7):
        wanted = staged(f"r{number}")
        activation.activate(wanted.id, Told())
        done.append(wanted.id)
    return done


def test_three_releases_stay(six: list[str]) -> None:
    """The current release and two before it can be gone back to; their files are kept, and no others'."""
    pruning.prune(keep=3, wanted=set())
    assert names(ports.RELEASES) == {"r4", "r5", "r6"}
    assert names(places.GENERATIONS) == {f"{name}.json" for name in six[3:]}
    kept = [blobs.read(file.sha256, secret=file.secret) for file in staged("r4").files]
    assert all(kept)
    assert len(names(places.SECRET_BLOBS)) == 3


def test_what_a_process_uses_stays(six: list[str]) -> None:
    """A worker or a draining queen of an old release keeps it until it ends."""
    program = ports.RELEASES / "r1" / "bin" / "python"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pruning.prune(keep=3, wanted=set())
        assert "r1" in names(ports.RELEASES)
        process.communicate(b"\n")
    pruning.prune(keep=3, wanted=set())
    assert "r1" not in names(ports.RELEASES)


def test_engines_that_are_wanted_or_named_stay(systemd: FakeSystemd) -> None:
    """An engine goes when neither the deploy wants it nor a configuration that can be gone back to names it."""
    for name in ("e-wanted", "e-named", "e-old"):
        engine(name)
    activation.activate(staged("r1", {"engines.yaml": "- e-named\n"}).id, Told())
    assert pruning.prune(keep=3, wanted={"e-wanted"}) == ["e-old"]


def test_nothing_goes_while_an_activation_has_not_ended(
    six: list[str], systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted activation may go back to is not touched."""
    monkeypatch.setattr(systemd, "broken", True)
    with pytest.raises(activation.BrokenError):
        activation.activate(staged("r7").id, Told())
    assert pruning.prune(keep=1, wanted=set()) == []
    assert state().undo
    assert len(names(ports.RELEASES)) == 7


def test_nothing_goes_while_another_activation_is_at_work(
    six: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that has begun and noted nothing yet may be about to go over to what would be removed."""
    monkeypatch.setattr(activation, "LOCK_SECONDS", 0.1)
    with activation.alone():
        assert main(["prune", "--keep", "1"]) == 1
    assert len(names(ports.RELEASES)) == 6
    assert "another activation is under way" in capfd.readouterr().err
    assert main(["prune", "--keep", "1"]) == 0
    assert len(names(ports.RELEASES)) == 1


def test_links_in_the_way_are_no_danger(six: list[str], root: Path) -> None:
    """A link among releases is removed itself, not what it leads to."""
    outside = root / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (ports.RELEASES / "zz").symlink_to(outside)
    pruning.prune(keep=3, wanted=set())
    assert (outside / "file").read_text() == "precious"
    assert "zz" not in names(ports.RELEASES)
