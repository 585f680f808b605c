"""Folders that workers see, looked at on the disk."""

import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import folders, podman_words
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.guard.folders import Hive
from rbee_runtime.guard.worker_container import WorkerContainer
from tests.unit.guard.bodies import create_body, model
from tests.unit.guard.places import Places

CONFIG = EngineKind.PODMAN


def wanted(places: Places, *, recursive: bool = False) -> WorkerContainer:
    found = podman_words.read_container(create_body(places, CONFIG), places.config(CONFIG))
    return replace(found, shown=replace(found.shown, recursive=recursive))


def test_a_models_own_files_may_be_seen(places: Places) -> None:
    """A path in an allowed folder, also one that leads to a file in another of them, is fine."""
    model(places).unlink()
    (places.models / "blob").write_text("weights")
    (places.cache / "hub/model").symlink_to(places.models / "blob")
    folders.check(wanted(places), places.config(CONFIG))


@pytest.mark.parametrize("target", ["/etc/hostname", "../../hive", "model"])
def test_a_path_that_leads_elsewhere_is_refused(places: Places, target: str) -> None:
    """A link out of the allowed folders is named with where it leads; one in a circle leads nowhere."""
    asked = wanted(places)
    model(places).unlink()
    (places.cache / "hub/model").symlink_to(target)
    if target == "model":
        folders.check(asked, places.config(CONFIG))
        return
    with pytest.raises(GuardError, match=r"/cache/hub/model' leads to '.*', which may not be mounted"):
        folders.check(asked, places.config(CONFIG))


def test_a_folder_that_is_a_link_is_refused(places: Places) -> None:
    """The settings name the real place, which nobody can exchange."""
    places.models.rename(places.root / "real")
    places.models.symlink_to(places.root / "real")
    with pytest.raises(GuardError, match="/models is a link or no folder"):
        folders.check(wanted(places), places.config(CONFIG))


def test_a_folder_that_everybody_can_exchange_is_refused(places: Places) -> None:
    """A folder above that everybody may write to would let a hive put another one in its place."""
    places.root.chmod(0o777)
    with pytest.raises(GuardError, match=r"who could exchange .*change its owner"):
        folders.check(wanted(places), places.config(CONFIG))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_the_hive_can_exchange_is_refused(places: Places) -> None:
    """So is one that lies in a folder of the hive's own user."""
    for path in (places.handover, places.root):
        os.chown(path, 12345, 12345)
    with pytest.raises(GuardError, match=f"{places.root} can be written to by the hive"):
        folders.check(wanted(places), places.config(CONFIG))


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets the mounts of this host."""
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(folders, "MOUNTS", table)

    def put(*places: Path) -> None:
        paths = (str(each).replace("\\", "\\134").replace(" ", "\\040") for each in places)
        rows = (f"{number} 1 0:{number} / {path} rw - tmpfs tmpfs rw\n" for number, path in enumerate(paths))
        table.write_text("".join(rows))

    return put


@pytest.mark.parametrize("below", ["hub", "hub/model", "hub/my disk\\x"])
def test_what_is_mounted_below_a_folder_is_told(
    places: Places, mounts: Callable[..., None], capsys: pytest.CaptureFixture[str], below: str
) -> None:
    """A model on such a mount is refused, since workers would not see it; another one is only told in the log."""
    path = model(places)
    mount = places.cache / below
    mounts(Path("/"), places.cache, mount)
    if path.is_relative_to(mount):
        said = f"'{path}' is on {mount}, which is mounted below {places.cache} and which podman would let workers write"
        with pytest.raises(GuardError, match=re.escape(said)):
            folders.check(wanted(places), places.config(CONFIG))
    else:
        folders.check(wanted(places), places.config(CONFIG))
        assert "event=mounts_not_shown worker=w-1" in capsys.readouterr().err


def test_a_mount_elsewhere_is_nobodys_business(
    places: Places, mounts: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither one around the folders, nor beside them, nor a folder of models of its own further down."""
    model(places)
    inner = places.cache / "hub"
    config = places.config(CONFIG, models=(places.models, places.engines, places.cache, inner))
    mounts(places.root, places.cache, places.root / "cachet", inner)
    asked = podman_words.read_container(create_body(places, CONFIG), config)
    folders.check(asked, config)
    assert inner in asked.shown.folders
    assert capsys.readouterr().err == ""


def test_an_engine_that_reaches_below_shows_it(
    places: Places, mounts: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where what is mounted below is read-only as well, a model may be there."""
    mounts(model(places))
    folders.check(wanted(places, recursive=True), places.config(CONFIG))
    assert capsys.readouterr().err == ""


ROOT, HIVE, SOMEBODY = 0, 12345, 1000
TEAM = 4321
KNOWN, STRANGE, AWAY = Hive(HIVE, frozenset({HIVE, TEAM})), Hive(HIVE, None), Hive(None, None)
STICKY = stat.S_ISVTX


def status(owner: int, group: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFDIR | mode, 1, 1, 2, owner, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("above", "entry", "hive", "may"),
    [
        ((ROOT, ROOT, 0o755), HIVE, KNOWN, False),
        ((SOMEBODY, SOMEBODY, 0o755), SOMEBODY, KNOWN, False),
        ((HIVE, HIVE, 0o755), ROOT, KNOWN, True),
        ((HIVE, HIVE, 0o555), ROOT, KNOWN, True),
        ((HIVE, HIVE, STICKY | 0o755), ROOT, KNOWN, True),
        ((ROOT, TEAM, 0o775), ROOT, KNOWN, True),
        ((ROOT, TEAM, 0o755), ROOT, KNOWN, False),
        ((SOMEBODY, SOMEBODY, 0o775), SOMEBODY, KNOWN, False),
        ((ROOT, TEAM, STICKY | 0o775), ROOT, KNOWN, False),
        ((ROOT, TEAM, STICKY | 0o775), HIVE, KNOWN, True),
        ((ROOT, SOMEBODY, STICKY | 0o775), HIVE, KNOWN, False),
        ((ROOT, ROOT, 0o777), ROOT, KNOWN, True),
        ((ROOT, ROOT, STICKY | 0o777), ROOT, KNOWN, False),
        ((ROOT, ROOT, STICKY | 0o777), SOMEBODY, KNOWN, False),
        ((ROOT, ROOT, STICKY | 0o777), HIVE, KNOWN, True),
        ((ROOT, ROOT, 0o775), ROOT, STRANGE, False),
        ((ROOT, SOMEBODY, 0o775), ROOT, STRANGE, True),
        ((ROOT, ROOT, 0o777), ROOT, AWAY, True),
        ((SOMEBODY, SOMEBODY, 0o755), ROOT, AWAY, True),
        ((ROOT, ROOT, 0o755), SOMEBODY, AWAY, False),
        ((ROOT, ROOT, STICKY | 0o777), SOMEBODY, AWAY, True),
        ((ROOT, ROOT, STICKY | 0o777), ROOT, AWAY, False),
    ],
)
def test_who_may_exchange_an_entry(above: tuple[int, int, int], entry: int, hive: Hive, may: bool) -> None:
    """Whoever owns a folder or may write to it by group or as anybody, and of a sticky one only what is theirs."""
    found = folders.may_be_exchanged(status(entry, entry, 0o755), status(*above), hive)
    assert found == may


@pytest.mark.parametrize(("mode", "may"), [(0o775, True), (0o755, False), (STICKY | 0o775, False)])
def test_an_access_list_could_name_the_hive(mode: int, may: bool) -> None:
    """With one, the bits of the group are the most that it gives to anybody, whatever the group is."""
    found = folders.may_be_exchanged(
        status(ROOT, ROOT, 0o755), status(ROOT, SOMEBODY, mode), Hive(HIVE, frozenset()), listed=True
    )
    assert found == may


def named_writer(uid: int) -> bytes:
    """Return an access list of version 2: tag, rights and number of each entry; `uid` may write."""
    nobody = 2**32 - 1
    entries = [(1, 7, nobody), (2, 7, uid), (4, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_a_folder_above_with_an_access_list_is_refused(places: Places) -> None:
    """One that lets somebody write by such a list is found on the disk, though mode and owner look harmless."""
    places.root.chmod(0o755)
    folders.check(wanted(places), places.config(CONFIG))
    os.setxattr(places.root, "system.posix_acl_access", named_writer(HIVE))
    with pytest.raises(GuardError, match=f"{places.root} can be written to by the hive"):
        folders.check(wanted(places), places.config(CONFIG))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_sticky_folder_keeps_only_what_others_own(places: Places) -> None:
    """In one like /tmp a folder of root's may be shown, and one that is the hive's own may not."""
    places.root.chmod(STICKY | 0o777)
    os.chown(places.handover, HIVE, HIVE)
    folders.check(wanted(places), places.config(CONFIG))
    os.chown(places.models, HIVE, HIVE)
    with pytest.raises(GuardError, match=f"{places.root} can be written to by the hive, who could exchange .*/models"):
        folders.check(wanted(places), places.config(CONFIG))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_hive_without_handover_could_be_anybody(places: Places) -> None:
    """Where its folder is away nobody knows who it is: root's folders may be shown, and anybody else's not."""
    places.handover.rmdir()
    folders.check(wanted(places), places.config(CONFIG))
    os.chown(places.root, SOMEBODY, SOMEBODY)
    with pytest.raises(GuardError, match=f"{places.root} can be written to by the hive"):
        folders.check(wanted(places), places.config(CONFIG))
