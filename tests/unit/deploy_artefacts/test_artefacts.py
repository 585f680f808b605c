import os
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rbee_deploy.artefacts import Target, cache_root, cached_dir, fresh_dir, fresh_file, locked, pack, tree_digest
from rbee_deploy.errors import ArtefactError


def write(root: Path, name: str, text: str, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_same_tree_packs_to_the_same_bytes(tmp_path: Path) -> None:
    """A tar depends on names, contents and executable bits, not on dates, umask, owner or creation order."""
    for name, files, when in (("one", ("b", "a/x"), 1), ("two", ("a/x", "b"), 2_000_000_000)):
        for file in files:
            os.utime(write(tmp_path / name, file, file, 0o600 if name == "one" else 0o640), (when, when))
        (tmp_path / name / "link").symlink_to("b")
        pack(tmp_path / name, tmp_path / f"{name}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


@pytest.mark.parametrize("change", ["content", "name", "mode"])
def test_a_different_tree_packs_to_different_bytes(tmp_path: Path, change: str) -> None:
    """A changed byte, name or executable bit shows in the tar."""
    write(tmp_path / "one", "f", "text")
    write(tmp_path / "two", "g" if change == "name" else "f", "other" if change == "content" else "text")
    (tmp_path / "two" / ("g" if change == "name" else "f")).chmod(0o755 if change == "mode" else 0o644)
    for name in ("one", "two"):
        pack(tmp_path / name, tmp_path / f"{name}.tar")
    assert (tmp_path / "one.tar").read_bytes() != (tmp_path / "two.tar").read_bytes()


def test_a_packed_tree_gives_no_write_bit_to_others(tmp_path: Path) -> None:
    """Whatever the operator's umask, hosts get root-owned 0644 files and 0755 folders and programs."""
    write(tmp_path / "tree", "d/program", "x", 0o777)
    write(tmp_path / "tree", "d/file", "x", 0o666)
    pack(tmp_path / "tree", tmp_path / "t.tar")
    with tarfile.open(tmp_path / "t.tar") as tar:
        assert {m.name: (m.uid, m.mode) for m in tar} == {
            "d": (0, 0o755),
            "d/program": (0, 0o755),
            "d/file": (0, 0o644),
        }


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """A folder of the cache exists only when it is complete, and a failed try leaves no other."""

    def fail(draft: Path) -> None:
        write(draft, "half", "x")
        raise RuntimeError("compiler")

    with pytest.raises(RuntimeError):
        cached_dir(tmp_path / "cache" / "thing", fail)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_two_builders_build_once(tmp_path: Path) -> None:
    """Runs at the same time build a thing once; the second waits and gets it."""
    built: list[int] = []

    def build(draft: Path) -> None:
        built.append(1)
        time.sleep(0.05)
        write(draft, "done", "x")

    threads = [threading.Thread(target=cached_dir, args=(tmp_path / "thing", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert built == [1]
    assert (tmp_path / "thing" / "done").is_file()


def test_the_next_build_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """A killed build's draft does not stay in the cache for ever."""
    write(tmp_path, ".thing.abc123/half", "x")
    cached_dir(tmp_path / "thing", lambda _draft: None)
    assert not (tmp_path / ".thing.abc123").exists()


def test_a_half_written_file_never_shows(tmp_path: Path) -> None:
    """A file that fails while it is written keeps its old content and leaves no draft."""
    final = write(tmp_path, "f", "old")
    with pytest.raises(ZeroDivisionError), fresh_file(final) as draft:
        assert draft.write_text("ne") // 0
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_a_tree_digest_tells_names_from_contents(tmp_path: Path) -> None:
    """Moving bytes between a name and a content changes the digest."""
    one = [write(tmp_path / "1", "ab", "c")]
    two = [write(tmp_path / "2", "a", "bc")]
    assert tree_digest(tmp_path / "1", one) != tree_digest(tmp_path / "2", two)


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME moves the cache; without it the home folder has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "rbee"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_root() == Path("/home/someone/.cache/rbee")


def test_this_machine_is_a_target() -> None:
    """The running interpreter's target has the forms that artefacts are named by."""
    here = Target.this_machine()
    assert here.python.startswith("3.")
    assert here.glibc.startswith("2.")
    assert here.label == f"cp{here.python.replace('.', '')}-{here.arch}-glibc{here.glibc}"


@pytest.mark.parametrize("use", [locked, fresh_dir, fresh_file])
def test_a_cache_that_cannot_be_written_is_one_sentence(
    use: Callable[[Path], AbstractContextManager[object]], tmp_path: Path
) -> None:
    """The sentence names the folder, the reason and the variable that moves it."""
    (tmp_path / "file").write_text("")
    sentence = f"cannot write to {tmp_path}/file/rbee: Not a directory; set XDG_CACHE_HOME to a folder"
    with pytest.raises(ArtefactError, match=sentence), use(tmp_path / "file" / "rbee" / "thing"):
        pass


def test_what_fails_inside_the_cache_is_not_called_unwritable(tmp_path: Path) -> None:
    """Only the first file of a block is the cache's affair; the rest is its caller's."""
    for use in (locked, fresh_dir, fresh_file):
        with pytest.raises(FileNotFoundError), use(tmp_path / "thing"):
            (tmp_path / "gone").read_text()


def test_a_user_without_a_home_is_told_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing says what the home folder is, the cache has no place."""

    def fail() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(ArtefactError, match="no home folder for the cache: set XDG_CACHE_HOME"):
        cache_root()
