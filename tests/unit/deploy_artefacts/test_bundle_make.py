"""Making a bundle: all of it or nothing, and never over what is not one."""

import errno
import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.bundle import operator
from rbee_deploy.bundle.folder import Bundle, verified
from rbee_deploy.bundle.make import Makers, make
from rbee_deploy.bundle.manifest import MANIFEST, Kind
from rbee_deploy.errors import ArtefactError, BundleError
from rbee_deploy.inventory import host, model
from rbee_deploy.site import Site
from tests.unit.deploy.sites import site_of
from tests.unit.deploy_artefacts.bundles import (
    ARM,
    BOOKWORM,
    SPLIT,
    TRIXIE,
    Makings,
    bundle_of,
    flip,
    quiet,
    two_boxes,
)

NOBLE = Target(python="3.12", arch="x86_64", glibc="2.39")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return two_boxes(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out" / "bundle"


def kinds(folder: Path) -> dict[Kind, int]:
    entries = verified(folder, say=quiet).manifest.entries
    return {kind: sum(entry.kind is kind for entry in entries) for kind in Kind}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_bundle_has_all_that_the_hosts_get(site: Site, folder: Path, tmp_path: Path) -> None:
    """Per kind of host a release and an engine, once what does not differ, every file of every model, rbee-deploy."""
    bundle_of(site, folder, makings=Makings(tmp_path))
    assert kinds(folder) == {
        Kind.RELEASE: 2,
        Kind.UV: 1,
        Kind.ENGINE: 2,
        Kind.MODEL: 1 + len(SPLIT),
        Kind.IMAGE: 0,
        Kind.OPERATOR: 3,
    }
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_two_names_for_one_model_share_its_content(folder: Path, tmp_path: Path) -> None:
    """By the same source, and by another file with the same bytes."""
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    models = [model(f"m{n}", source=f"file:{tmp_path}/{name}.gguf") for n, name in enumerate(("one", "one", "two"))]
    site = site_of(host("box1", queen=True, engines=["llama-cpp"]), models=tuple(models))
    bundle_of(site, folder, makings=Makings(tmp_path))
    assert kinds(folder)[Kind.MODEL] == 2
    assert len(list((folder / "models").iterdir())) == 1


def test_what_cannot_be_built_leaves_nothing(site: Site, folder: Path, tmp_path: Path) -> None:
    """One kind of host that nothing can be made for ends all of it with its sentence, and no folder comes to be."""
    with pytest.raises(ArtefactError, match="an engine for aarch64 cannot be built"):
        bundle_of(site, folder, TRIXIE, ARM, makings=Makings(tmp_path, fails=frozenset({"aarch64"})))
    assert list(folder.parent.iterdir()) == []


def test_an_engine_too_new_for_a_target_is_in_no_bundle(site: Site, folder: Path, tmp_path: Path) -> None:
    """A target with an older glibc than this machine's build needs ends it with both versions, not at the site."""
    with pytest.raises(ArtefactError, match=r"needs glibc 2\.38 and the target has 2\.36: make the bundle on"):
        bundle_of(site, folder, TRIXIE, BOOKWORM, makings=Makings(tmp_path, needs_glibc="2.38"))
    assert list(folder.parent.iterdir()) == []


def test_a_failed_refresh_leaves_the_bundle_that_was_there(site: Site, folder: Path, tmp_path: Path) -> None:
    """Not a byte of it changes."""
    bundle_of(site, folder, makings=Makings(tmp_path))
    before = tree(folder)
    with pytest.raises(ArtefactError):
        bundle_of(site, folder, ARM, makings=Makings(tmp_path, fails=frozenset({"aarch64"})))
    assert tree(folder) == before


def test_a_file_that_changes_meanwhile_ends_it(site: Site, folder: Path, tmp_path: Path) -> None:
    """A bundle never holds what its manifest does not say."""

    class Changing(Makings):
        def packages(self, target: Target) -> tuple[Path, ...]:
            flip(tmp_path / "smol.gguf")
            return super().packages(target)

    with pytest.raises(BundleError, match=r"smol.gguf changed while it was copied; run the same command again"):
        bundle_of(site, folder, makings=Changing(tmp_path))
    assert list(folder.parent.iterdir()) == []


def test_another_target_is_added(site: Site, folder: Path, tmp_path: Path) -> None:
    """The command that a host without a release is told keeps what the bundle has for others."""
    bundle_of(site, folder, BOOKWORM, makings=Makings(tmp_path))
    again = bundle_of(site, folder, NOBLE, makings=Makings(tmp_path))
    assert again.manifest.targets == (BOOKWORM, NOBLE)
    assert {entry.target for entry in again.manifest.of_kind(Kind.RELEASE)} == {BOOKWORM, NOBLE}


@pytest.mark.parametrize(
    ("asked", "made"), [((), (BOOKWORM,)), ((NOBLE,), (BOOKWORM, NOBLE))], ids=["as before", "one more"]
)
def test_a_bundle_of_a_killed_run_keeps_its_targets(
    site: Site, folder: Path, tmp_path: Path, asked: tuple[Target, ...], made: tuple[Target, ...]
) -> None:
    """A run that ended between its two renames left the only bundle under another name."""
    makings = Makings(tmp_path)
    bundle_of(site, folder, BOOKWORM, makings=makings)
    folder.rename(folder.with_name(".bundle.old"))
    makers = Makers(source=makings, packages=makings.packages, download=makings.download)
    assert make(site, asked, folder, TRIXIE, makers, quiet).manifest.targets == made


def test_no_targets_are_the_usual_ones(site: Site, folder: Path, tmp_path: Path) -> None:
    """Where no bundle says others."""
    makings = Makings(tmp_path)
    makers = Makers(source=makings, packages=makings.packages, download=makings.download)
    made = make(site, (), folder, TRIXIE, makers, quiet).manifest.targets
    assert [(target.python, target.glibc) for target in made] == [("3.11", "2.36"), ("3.13", "2.41"), ("3.12", "2.39")]


def test_two_runs_on_one_folder_add_up(
    site: Site, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first, and then keeps what that one made."""
    waits, runs = threading.Event(), ThreadPoolExecutor(max_workers=1)
    second: list[Future[Bundle]] = []

    def noticed(handle: int, operation: int) -> None:
        waits.set()
        take(handle, operation)

    class Slow(Makings):
        def packages(self, target: Target) -> tuple[Path, ...]:
            monkeypatch.setattr(fcntl, "flock", noticed)
            second.append(runs.submit(bundle_of, site, folder, NOBLE, makings=Makings(tmp_path)))
            assert waits.wait(timeout=30)
            return super().packages(target)

    take = fcntl.flock
    with runs:
        bundle_of(site, folder, BOOKWORM, makings=Slow(tmp_path))
    assert second[0].result().manifest.targets == (BOOKWORM, NOBLE)


def test_a_refresh_takes_what_is_new_and_copies_only_that(site: Site, folder: Path, tmp_path: Path) -> None:
    """A changed release is there afterwards, the old one is gone, and a model of gigabytes is not copied again."""
    first = bundle_of(site, folder, makings=Makings(tmp_path))
    held = first.path(first.manifest.of_kind(Kind.MODEL)[0]).stat().st_ino
    again = bundle_of(site, folder, makings=Makings(tmp_path, says="second"))
    assert again.sha256 != first.sha256
    assert "second" in again.path(again.manifest.of_kind(Kind.RELEASE)[0]).read_text(errors="ignore")
    assert again.path(again.manifest.of_kind(Kind.MODEL)[0]).stat().st_ino == held
    assert verified(folder, say=quiet)


def test_a_refresh_heals_a_damaged_file(site: Site, folder: Path, tmp_path: Path) -> None:
    """What the old bundle has is taken from it only if it is still what it was, so the new one is sound."""
    first = bundle_of(site, folder, makings=Makings(tmp_path))
    flip(first.path(first.manifest.of_kind(Kind.MODEL)[0]))
    bundle_of(site, folder, makings=Makings(tmp_path))
    assert verified(folder, say=quiet)


def test_a_bundle_is_made_again_where_there_are_no_links(
    site: Site, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on sticks with FAT: what stays as it was is copied."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    bundle_of(site, folder, BOOKWORM, makings=Makings(tmp_path))
    monkeypatch.setattr(os, "link", refused)
    assert bundle_of(site, folder, NOBLE, makings=Makings(tmp_path)).manifest.targets == (BOOKWORM, NOBLE)
    assert verified(folder, say=quiet)


def test_a_file_that_is_gone_meanwhile_is_named(site: Site, folder: Path, tmp_path: Path) -> None:
    """More room would not bring it back."""

    class Vanishing(Makings):
        def packages(self, target: Target) -> tuple[Path, ...]:
            (tmp_path / "smol.gguf").unlink()
            return super().packages(target)

    with pytest.raises(BundleError) as raised:
        bundle_of(site, folder, makings=Vanishing(tmp_path))
    gone = f"cannot copy {tmp_path}/smol.gguf into the bundle: No such file or directory; run the same command again"
    assert str(raised.value) == gone
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device; make room, or give another folder by -o"),
        (errno.EDQUOT, "Disk quota exceeded; make room, or give another folder by -o"),
        (errno.EFBIG, "File too large; its file system has a limit for one file, as FAT has: give a folder on another"),
        (errno.EROFS, "Read-only file system; give another folder by -o"),
    ],
)
def test_a_folder_that_takes_no_more_is_told_by_its_reason(
    site: Site, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    """What helps against one reason does not against another."""

    def full(source: Path, final: Path) -> None:
        # A copy that ends on the way names both files.
        names = (str(final),) if number == errno.EROFS else (str(source), None, str(final))
        raise OSError(number, os.strerror(number), *names)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(BundleError) as raised:
        bundle_of(site, folder, makings=Makings(tmp_path))
    assert f"cannot write {folder}: {advice}" in str(raised.value)


def test_who_changes_a_bundle_does_not_change_the_cache(site: Site, folder: Path, tmp_path: Path) -> None:
    """The files of a bundle are its own, not other names for what later runs trust."""
    bundle = bundle_of(site, folder, makings=Makings(tmp_path))
    assert {bundle.path(entry).stat().st_nlink for entry in bundle.manifest.entries} == {1}


def not_whole(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def stranger(folder: Path) -> None:
    (folder / "thesis.txt").write_text("x")


def file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (not_whole, "is there and is no whole bundle: move it away, or give another by -o"),
        (stranger, "thesis.txt is not of the bundle and would be lost: move it out of"),
        (file_instead, "is there and is no whole bundle"),
    ],
)
def test_nothing_else_is_written_over(
    site: Site, folder: Path, tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    """A folder that is not all bundle keeps every file."""
    bundle_of(site, folder, makings=Makings(tmp_path))
    harm(folder)
    before = tree(folder.parent)
    with pytest.raises(BundleError, match=words):
        bundle_of(site, folder, makings=Makings(tmp_path))
    assert tree(folder.parent) == before


def test_the_bundle_of_another_fleet_is_kept(site: Site, folder: Path, tmp_path: Path) -> None:
    """Two fleets do not share a folder by mistake."""
    bundle_of(site, folder, makings=Makings(tmp_path))
    with pytest.raises(BundleError, match="is the bundle of fleet test, not of other: give another folder by -o"):
        bundle_of(replace(site, name="other"), folder, makings=Makings(tmp_path))


def test_an_empty_folder_is_taken(site: Site, folder: Path, tmp_path: Path) -> None:
    """Such as one that was made for it, and drafts of a run that was killed go."""
    folder.mkdir(parents=True)
    (folder.parent / ".bundle.new" / "models").mkdir(parents=True)
    bundle_of(site, folder, makings=Makings(tmp_path))
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_place_that_cannot_be_written_is_one_sentence(site: Site, tmp_path: Path) -> None:
    """It names the folder, the reason and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"cannot write to .*/file/x: Not a directory; give another folder by -o"):
        bundle_of(site, tmp_path / "file" / "x" / "bundle", makings=Makings(tmp_path))


def test_an_archive_that_is_no_engine_is_named(site: Site, folder: Path, tmp_path: Path) -> None:
    """A damaged file of the cache is told by its path and what to do with it."""

    class Damaged(Makings):
        def engine(self, name: str, variant: str, target: Target) -> Artefact:
            made = super().engine(name, variant, target)
            made.archive.write_bytes(b"no tar at all")
            return made

    with pytest.raises(ArtefactError, match=r"engine-.*\.tar is no engine \(.*\); remove it and run the same command"):
        bundle_of(site, folder, makings=Damaged(tmp_path))


def test_the_operator_installs_by_hash(site: Site, folder: Path, tmp_path: Path) -> None:
    """Each wheel beside the note is pinned, and the note names both."""
    bundle_of(site, folder, makings=Makings(tmp_path))
    lines = (folder / "operator" / operator.REQUIREMENTS).read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == ["rbee"]
    assert all(" --hash=sha256:" in line for line in lines)
    note = (folder / "operator" / operator.NOTE).read_text()
    assert f"--find-links {operator.WHEELS} --require-hashes -r {operator.REQUIREMENTS}" in note


def test_a_reader_of_the_folder_may_be_anyone(site: Site, folder: Path, tmp_path: Path) -> None:
    """The manifest is text with the schema in it, and nothing is hidden from those that the folder is handed to."""
    bundle = bundle_of(site, folder, makings=Makings(tmp_path))
    plain = json.loads((folder / MANIFEST).read_text())
    assert (plain["schema"], plain["fleet"], plain["rbee"]) == (1, "test", bundle.manifest.rbee)
    old = os.umask(0)
    os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~old
