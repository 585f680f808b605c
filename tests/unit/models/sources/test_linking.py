import errno
import fcntl
import os
from pathlib import Path

import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources.linking import Placed, closed, place


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "cache" / "blob"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    (tmp_path / "link").symlink_to(path)
    return tmp_path / "link"


def test_our_own_file_on_the_same_disk_is_linked(model: Path, tmp_path: Path) -> None:
    """No byte is copied: both names are one file, the one behind the link."""
    assert place(model, tmp_path / "blob") is Placed.LINKED
    assert (tmp_path / "blob").stat().st_ino == model.stat().st_ino
    assert not (tmp_path / "blob").is_symlink()


@pytest.fixture
def _others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file belong to another user, as far as the process can tell."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


@pytest.mark.usefixtures("_others")
def test_a_file_of_another_user_is_not_copied_unasked(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk cannot clone, the refusal names the ways out and leaves nothing behind."""
    monkeypatch.setattr(fcntl, "ioctl", _refuse)
    with pytest.raises(ModelStoreError, match="without a second copy of it"):
        place(model, tmp_path / "blob")
    assert not (tmp_path / "blob").exists()


@pytest.mark.usefixtures("_others")
def test_a_copy_is_made_where_it_is_allowed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is a file of our own with the store's mode."""
    monkeypatch.setattr(fcntl, "ioctl", _refuse)
    assert place(model, tmp_path / "blob", may_copy=True) is Placed.COPIED
    assert (tmp_path / "blob").read_bytes() == b"weights"
    assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o640


@pytest.mark.usefixtures("_others")
def test_a_target_that_is_there_is_kept(model: Path, tmp_path: Path) -> None:
    """Nothing is replaced by mistake."""
    (tmp_path / "blob").write_bytes(b"other")
    with pytest.raises(ModelStoreError, match="is there already"):
        place(model, tmp_path / "blob", may_copy=True)
    assert (tmp_path / "blob").read_bytes() == b"other"


def _refuse(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "not supported")


@pytest.mark.parametrize(
    ("mode", "folder_mode", "shut"),
    [(0o644, 0o755, ""), (0o600, 0o755, "blob"), (0o644, 0o700, "cache"), (0o604, 0o701, "")],
    ids=["open", "file", "folder", "others"],
)
def test_what_keeps_workers_from_a_file_of_a_cache_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, folder_mode: int, shut: str
) -> None:
    """The file or the folder on its way that the group of the models folder cannot pass; none where we are it."""
    path, store = model.resolve(), tmp_path / "models"
    store.mkdir()
    monkeypatch.setattr(Path, "parents", property(lambda each: (each.parent,) if each != store else ()))
    path.chmod(mode)
    path.parent.chmod(folder_mode)
    assert closed(path, store) is None
    monkeypatch.setattr(os, "getegid", lambda: 7)
    real = Path.stat

    def stat(each: Path, **given: bool) -> os.stat_result:
        found = real(each, **given)
        group = 8 if each == store else 9
        return os.stat_result((*found[:5], group, *found[6:10]))

    monkeypatch.setattr(Path, "stat", stat)
    found = closed(path, store)
    assert (found.name if found is not None else "") == shut
