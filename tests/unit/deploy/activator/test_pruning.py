"""What is removed after a deploy, and what never is."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator import activation, blobs, places, pruning, records
from rbee_deploy.activator.__main__ import main
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.units import ActivationError
from rbee_deploy.history import Past
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


PODMAN = """#!/bin/sh
case "$1 $2 $3" in
    "image inspect sha256:gone") exit 125;;
    "image rm sha256:used") [ -e {removed}.free ] && echo "$3" >>{removed} || exit 2;;
    "image rm "*) echo "$3" >>{removed};;
    "ps --all --quiet") [ -e {removed}.gone ] || echo c1 c2;;
    "rm --force "*) echo "$*" >>{removed}; touch {removed}.gone;;
    "stop --time="* | "network rm "*) echo "$*" >>{removed};;
esac
"""


ENDED = ["stop --time=195 c1 c2", "rm --force --volumes c1 c2", "network rm rbee-workers"]


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a made-up Podman on the path; return the file in which it notes what it removes."""
    removed, program = tmp_path / "removed", tmp_path / "programs/podman"
    program.parent.mkdir()
    program.write_text(PODMAN.format(removed=removed))
    program.chmod(0o755)
    (program.parent / "docker").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    removed.touch()
    return removed


def contained(release: str, *images: str, engine: str = "podman") -> str:
    """Go over to a release whose workers run from these images."""
    about = {"engine": engine, "fleet": "f", "hive": "h", "network": "rbee-workers"}
    text = json.dumps({**about, "images": [f"sha256:{image}" for image in images]})
    wanted = staged(release, {"guard.json": text}, contained=True)
    activation.activate(wanted.id, Told())
    return wanted.id


def test_images_that_no_kept_generation_names_go(systemd: FakeSystemd, podman: Path) -> None:
    """What an old release alone ran goes, unless a container uses it; nothing is removed that no deploy brought."""
    for release, images in (("r1", ("old", "shared")), ("r2", ("used",)), ("r3", ("shared", "new"))):
        contained(release, *images)
    gone = pruning.prune(keep=1, wanted=set())
    assert podman.read_text().split() == ["sha256:old"]
    assert {name for name in gone if name.startswith("sha256:")} == {"sha256:old"}


def of_images(release: str, *images: str) -> str:
    """Go over to a release whose containers are made of these images, as its generation says."""
    wanted = staged(release, contained=True, images=tuple(f"sha256:{image}" for image in images))
    activation.activate(wanted.id, Told())
    return wanted.id


def test_a_change_of_images_alone_can_be_taken_back(systemd: FakeSystemd, podman: Path) -> None:
    """The generation before it stays with its images, although its release is the same, and is gone back to."""
    before = of_images("r1", "old", "shared")
    after = of_images("r1", "new", "shared")
    assert pruning.prune(keep=3, wanted=set()) == []
    assert podman.read_text() == ""
    assert names(places.GENERATIONS) == {f"{before}.json", f"{after}.json"}
    activation.activate(before, Told(), goes_back=True)
    assert (state().current, [entry.generation for entry in state().good]) == (before, [before])
    assert pruning.prune(keep=3, wanted=set()) == [f"{after}.json", "sha256:new"]


def test_releases_and_sets_of_images_are_counted_alike(systemd: FakeSystemd, podman: Path) -> None:
    """Three stay, whichever of the two has changed; of what has the same release and images, the newest one."""
    of_images("r1", "a")
    second = of_images("r1", "b")
    third = of_images("r2", "b")
    of_images("r2", "c")
    wanted = staged("r2", {"note": "edited"}, contained=True, images=("sha256:c",))
    activation.activate(wanted.id, Told())
    assert "sha256:a" in pruning.prune(keep=3, wanted=set())
    assert [entry.generation for entry in state().good] == [second, third, wanted.id]
    assert podman.read_text().split() == ["sha256:a"]


def way(release: str, note: str = "", **images: str) -> str:
    """Go over to a release with a note and these images by kind for its containers, or bare where there are none."""
    ids = {kind: f"sha256:{image}" for kind, image in images.items()}
    wanted = staged(release, {"note": note}, contained=bool(images), images=ids)
    activation.activate(wanted.id, Told())
    return wanted.id


def test_another_way_takes_no_place(systemd: FakeSystemd, podman: Path) -> None:
    """Three releases stay however often the host changed between bare and containers; of each the newest generation."""
    first, second = way("r1"), way("r2", worker="w2")
    way("r3")
    way("r3", worker="w3")
    way("r3", worker="w3", queen="q3")
    last = way("r3")
    gone = pruning.prune(keep=3, wanted=set())
    assert [entry.generation for entry in state().good] == [first, second, last]
    assert names(ports.RELEASES) == {"r1", "r2", "r3"}
    assert {name for name in gone if name.startswith("sha256:")} == {"sha256:w3", "sha256:q3"}


WAYS: list[list[tuple[str, dict[str, str]]]] = [
    [("r1", {"worker": "a"}), ("r1", {"worker": "b"}), ("r1", {})],
    [("r1", {"worker": "a"}), ("r1", {"worker": "b"}), ("r1", {}), ("r1", {"worker": "a", "note": "edited"})],
    [("r1", {"worker": "a"}), ("r1", {"worker": "b"}), ("r1", {"worker": "b", "queen": "q"})],
    [("r1", {"worker": "a"}), ("r1", {}), ("r1", {"worker": "b"})],
    [("r1", {}), ("r1", {"worker": "a"}), ("r2", {}), ("r2", {"worker": "b"}), ("r2", {"worker": "c"})],
    [("r1", {}), ("r2", {"worker": "a"}), ("r3", {"worker": "a"}), ("r3", {}), ("r2", {}), ("r2", {"worker": "b"})],
    [("r1", {}), ("r2", {}), ("r2", {"worker": "a"}), ("r2", {}), ("r2", {"worker": "b"}), ("r2", {})],
]


@pytest.mark.parametrize("unnoted", [{}, {"had": (), "brought": ()}, {"had": (), "brought": (), "switch": None}])
@pytest.mark.parametrize("ways", WAYS)
def test_what_a_rollback_takes_stays(
    systemd: FakeSystemd, podman: Path, ways: list[tuple[str, dict[str, str]]], unnoted: dict[str, Any]
) -> None:
    """Where a rollback goes, and since when the host runs what it runs, is the same after anything was pruned."""
    for release, images in ways:
        way(release, **images)
    # As releases of before left it.
    replace(state(), good=tuple(replace(step, **unnoted) for step in state().good)).save()
    before = Past(state().good)
    for _ in range(2):
        pruning.prune(keep=3, wanted=set())
        after = Past(state().good)
        assert state().good[-1].generation == state().current
        assert (after.since, after.switch) == (before.since, before.switch)
        assert (after.before is None) == (before.before is None)
        if after.before is not None and before.before is not None:
            assert after.before.generation == before.before.generation
            wanted = records.load(after.before.generation)
            assert wanted.release in names(ports.RELEASES)
            assert not {*wanted.images} & {*podman.read_text().split()}
    if after.before is not None:
        activation.activate(after.before.generation, Told(), goes_back=True)
        assert state().current == after.before.generation


def test_an_image_that_was_in_use_goes_later(systemd: FakeSystemd, podman: Path) -> None:
    """A run that finds it unused removes it, and with it the generation that knew of it."""
    old = contained("r1", "used")
    contained("r2", "new")
    contained("r3", "new")
    assert "sha256:used" not in pruning.prune(keep=1, wanted=set())
    assert (places.GENERATIONS / f"{old}.json").exists()
    podman.with_name(f"{podman.name}.free").touch()
    assert "sha256:used" in pruning.prune(keep=1, wanted=set())
    assert not (places.GENERATIONS / f"{old}.json").exists()
    contained("r4", "new")


def test_containers_that_no_hive_has_any_more_go(systemd: FakeSystemd, podman: Path) -> None:
    """Where workers become processes, the ended containers of this hive and their network are removed."""
    contained("r1", "here")
    activation.activate(staged("r2").id, Told())
    assert podman.read_text().splitlines() == ENDED


def test_another_engine_takes_over_no_worker(systemd: FakeSystemd, podman: Path) -> None:
    """Going over to another engine ends the containers of the first, and its way of ending workers is up again."""
    contained("r1", "here")
    systemd.calls.clear()
    contained("r2", "here", engine="docker")
    assert systemd.calls[0] == "stop rbee-hive.service"
    assert podman.read_text().splitlines() == ENDED
    assert systemd.known["rbee-workers.service"].active == "active"


def test_an_engine_that_does_not_answer_keeps_its_host(systemd: FakeSystemd, podman: Path) -> None:
    """Containers that nobody can end are not left behind without a word: the host stays as it is."""
    before = contained("r1", "here", engine="false")
    with pytest.raises(ActivationError, match="false does not say which workers of this host are its containers"):
        activation.activate(staged("r2").id, Told())
    assert (state().current, ports.CURRENT.readlink().name) == (before, "r1")


def test_a_generation_without_its_image_changes_nothing(systemd: FakeSystemd, podman: Path) -> None:
    """An image that somebody removed is told before anything is touched."""
    before = contained("r1", "here")
    with pytest.raises(ActivationError, match="the image sha256:gone is not on this host any more; run the deploy"):
        contained("r2", "gone")
    assert (state().current, ports.CURRENT.readlink().name) == (before, "r1")


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
