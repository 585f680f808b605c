"""What workers are handed: copied whole without following a hive anywhere, readable by the worker alone."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime.errors import ConfigError, GuardError
from rbee_runtime.guard import handing
from tests.unit.guard.places import ACCOUNT, Places, hand_over

ALL = {"ca_pem": "CA", "worker_pem": "CERT", "worker_key": "KEY"}


def copied(places: Places) -> Path:
    return handing.copy(places.handover, places.handed, "w", ACCOUNT)


def test_a_copy_is_for_the_worker_alone(places: Places) -> None:
    """Every file is 0400 in a folder of 0500, owned by the worker's account, and says what the hive wrote."""
    hand_over(places, "w", **ALL)
    place = copied(places)
    found = {path.name: path.stat() for path in (*place.iterdir(), place)}
    assert place == places.handed / "w"
    assert (place / "worker.key").read_text() == "KEY"
    assert {name: each.st_mode & 0o777 for name, each in found.items()} == {
        **dict.fromkeys(("launch.json", "ca.pem", "worker.pem", "worker.key"), 0o400),
        "w": 0o500,
    }
    assert {(each.st_uid, each.st_gid) for each in found.values()} == {(ACCOUNT.uid, ACCOUNT.gid)}


def test_a_second_copy_replaces_the_first(places: Places) -> None:
    """Nothing of an earlier start stays, and nothing half made."""
    hand_over(places, "w", **ALL)
    place = copied(places)
    (places.handover / "w/ca.pem").unlink()
    copied(places)
    assert [path.name for path in places.handed.iterdir()] == ["w"]
    assert not (place / "ca.pem").exists()
    handing.drop(places.handed, "w")
    handing.drop(places.handed, "w")
    assert list(places.handed.iterdir()) == []


def _link_for_a_file(places: Places) -> None:
    (places.handover / "w/ca.pem").symlink_to("/etc/hostname")


def _link_for_the_folder(places: Places) -> None:
    (places.handover / "w").rename(places.root / "elsewhere")
    (places.handover / "w").symlink_to(places.root / "elsewhere")


def _link_for_all_folders(places: Places) -> None:
    places.handover.rename(places.root / "elsewhere")
    places.handover.symlink_to(places.root / "elsewhere")


def _link_above(places: Places) -> None:
    places.handover.parent.rename(places.root / "elsewhere")
    places.handover.parent.symlink_to(places.root / "elsewhere")


def _second_name(places: Places) -> None:
    (places.root / "secret").write_text("of somebody")
    (places.handover / "w/ca.pem").hardlink_to(places.root / "secret")


def _pipe(places: Places) -> None:
    os.mkfifo(places.handover / "w/ca.pem")


def _folder(places: Places) -> None:
    (places.handover / "w/ca.pem").mkdir()


def _other_name(places: Places) -> None:
    (places.handover / "w/extra").write_text("x")


def _too_long(places: Places) -> None:
    (places.handover / "w/ca.pem").write_bytes(b"x" * (handing.MOST_BYTES + 1))


def _nothing(places: Places) -> None:
    (places.handover / "w/launch.json").unlink()


def _away(places: Places) -> None:
    (places.handover / "w").rename(places.root / "elsewhere")


@pytest.mark.parametrize(
    ("trick", "said"),
    [
        (_link_for_a_file, "Too many levels of symbolic links"),
        (_link_for_the_folder, "Not a directory"),
        (_link_for_all_folders, "Not a directory"),
        (_link_above, "Not a directory"),
        (_second_name, "no plain file"),
        (_pipe, "no plain file"),
        (_folder, "no plain file"),
        (_other_name, "has 'extra', and workers are handed ca.pem, launch.json, worker.key, worker.pem"),
        (_too_long, "more than 1048576 bytes"),
        (_nothing, r"has no launch\.json: write it before"),
        (_away, "cannot read what worker w is handed in .*: No such file"),
    ],
)
def test_a_hive_leads_the_guard_nowhere(places: Places, trick: Callable[[Places], None], said: str) -> None:
    """Links, second names, pipes, folders, other names and large files are refused, and nothing is copied."""
    hand_over(places, "w")
    trick(places)
    with pytest.raises(GuardError, match=said):
        copied(places)
    assert list(places.handed.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_copied(places: Places) -> None:
    """What a hive moved there and does not own is refused."""
    os.chown(hand_over(places, "w") / "launch.json", 12345, 12345)
    with pytest.raises(GuardError, match="no plain file of the hive's"):
        copied(places)


def test_a_guard_that_died_leaves_nothing_half_made(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that was cut off is never taken for one, and the next start clears it away."""
    hand_over(places, "w", **ALL)
    real = os.chown

    def dies(path: Path, *ids: int, **more: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.chown", dies)
    with pytest.raises(KeyboardInterrupt):
        copied(places)
    monkeypatch.setattr("os.chown", real)
    assert handing.workers(places.handed) == set()
    assert len(list(places.handed.iterdir())) == 1
    handing.prepare(places.handed)
    assert list(places.handed.iterdir()) == []


def test_a_full_disk_is_told(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the folder, and nothing stays."""

    def full(handle: int, uid: int, gid: int) -> None:
        raise OSError(28, "No space left on device")

    hand_over(places, "w")
    monkeypatch.setattr("os.fchown", full)
    with pytest.raises(GuardError, match=r"cannot copy to .*/handed/w: No space left") as refusal:
        copied(places)
    assert refusal.value.status == 500
    assert list(places.handed.iterdir()) == []


def test_the_guards_folder_is_its_own(places: Places) -> None:
    """It is made where it is not there, and one that is open to others or a link is refused."""
    handing.prepare(places.root / "new/handed")
    assert (places.root / "new/handed").stat().st_mode & 0o777 == 0o700
    places.handed.chmod(0o755)
    with pytest.raises(ConfigError, match="is open to others"):
        handing.prepare(places.handed)
    (places.root / "link").symlink_to(places.root / "new/handed")
    with pytest.raises(ConfigError, match=r"cannot use .*/link"):
        handing.prepare(places.root / "link")


def test_an_engine_s_group_goes_through_and_does_not_look_around(places: Places) -> None:
    """Without root an engine has to get to the copies; with another engine the folder is shut again."""
    groups = [os.getegid(), *os.getgroups()]
    handing.prepare(places.handed, groups[-1])
    found = places.handed.stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o710, groups[-1])
    handing.prepare(places.handed)
    found = places.handed.stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o700, os.getegid())
