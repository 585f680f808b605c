"""What enters the store from this host: under its own hash, linked or copied, and what a refusal leaves behind."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelStoreError, RbeeError
from rbee_runtime.models import adopt
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile

from .places import CONTENT, DIGEST, FILE, Place, wrong
from .pulling import uninspected


@pytest.mark.parametrize("files", [(FILE,), ()], ids=["hash known", "hash unknown"])
@pytest.mark.parametrize("link", [True, False], ids=["link", "copy"])
async def test_a_file_is_taken_in_under_its_own_hash(
    place: Place, monkeypatch: pytest.MonkeyPatch, files: tuple[ModelFile, ...], link: bool
) -> None:
    """The blob has the content, the manifest names it, and the model is found from then on."""
    if not link:
        monkeypatch.setattr(adopt, "_placed", lambda *_: False)
    spec = place.spec(files=files)
    assert place.store.find(spec) is None
    report = await place.take_in(spec)
    assert place.files() == ["org-m-q4.json", f"sha256-{DIGEST}"]
    assert place.store.path_of(report.files[0]).read_bytes() == CONTENT
    assert place.store.find(spec) == report == place.store.reports()[0]


async def test_taking_in_twice_is_taking_in_once(place: Place) -> None:
    """With its content there, a model comes back without its source, and without a copy."""
    await place.take_in(place.spec())
    place.source.unlink()
    (place.root / "manifests" / "org-m-q4.json").unlink()
    assert (await place.take_in(place.spec())).files == (FILE,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": wrong(sha256="0" * 64)}, "has sha256 .*, the inventory says 0000"),
        ({"files": wrong(size=3)}, "bytes, the inventory says 3"),
        ({"source": "file:/nowhere/m.gguf"}, "m.gguf .* is gone from the model store .*; run the deploy again"),
        ({"source": "file:/nowhere/m.gguf", "files": ()}, "is not a file here; run the deploy"),
        ({"source": "fake:"}, "has no file"),
        ({"files": (FILE, *wrong(name="b.gguf", sha256="1" * 64))}, "has no file b.gguf"),
        ({"files": wrong(sha256="../../m")}, "is not allowed"),
        ({"name": "../m"}, "is not allowed"),
    ],
)
async def test_a_refusal_is_a_sentence_and_leaves_nothing(place: Place, changes: dict[str, Any], said: str) -> None:
    """Wrong content, wrong names and missing files leave neither blob nor manifest."""
    with pytest.raises(RbeeError, match=said):
        await place.take_in(place.spec(**changes))
    assert place.files() == []


async def test_a_folder_becomes_a_folder_of_links(place: Place) -> None:
    """A model of several files keeps their names, and the engine is given the folder, or a split model's first part."""
    folder = place.source.parent
    for name in ("config.json", "sub/a.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    place.source.unlink()
    report = await place.take_in(place.spec(source=f"file:{folder}", files=()))
    view = place.store.engine_path(report)
    assert view == place.root / "views" / "org-m-q4"
    assert (view / "sub/a.safetensors").read_bytes() == b"sub/a.safetensors"
    assert not (view / "config.json").readlink().is_absolute()


async def test_the_parts_of_a_split_model_come_together(place: Place) -> None:
    """The first part names all, a missing one is told, and the engine gets the first part's path."""
    first = place.source.with_name("m-00001-of-00002.gguf")
    place.source.rename(first)
    spec = place.spec(source=f"file:{first}", files=())
    with pytest.raises(ModelStoreError, match=r"m-00002-of-00002.gguf is not beside it"):
        await place.take_in(spec)
    first.with_name("m-00002-of-00002.gguf").write_bytes(b"two")
    report = await place.take_in(spec)
    assert place.store.engine_path(report).name == first.name
    assert len(report.files) == 2


async def test_a_full_disk_is_seen_before_the_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the room for the model and a margin nothing is written."""
    monkeypatch.setattr(adopt, "_placed", lambda *_: False)
    monkeypatch.setattr(Layout, "free", lambda _: len(CONTENT) - 1)
    with pytest.raises(DiskFullError, match=r"model org/m:q4: .*free space there.* or set models_dir"):
        await place.take_in(place.spec())
    assert place.files() == []


async def test_a_link_needs_no_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of this disk is taken in however little is free, and nothing has to go for it."""
    monkeypatch.setattr(Layout, "free", lambda _: 0)
    store = ModelStore(place.root, StoreSettings(spare=2**40, quota=1))
    await Puller(store, inspect=uninspected).pull(place.spec())
    assert place.store.path_of(FILE).stat().st_ino == place.source.stat().st_ino


@pytest.mark.parametrize("shut", [True, False])
async def test_a_cached_file_is_pointed_to_where_workers_can_open_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, shut: bool
) -> None:
    """The engine's path leads to the cache; where the cache is closed to workers, what is closed is named instead."""
    cache = place.source.parent
    monkeypatch.setattr(adopt, "_placed", lambda *_: False)
    monkeypatch.setattr(adopt, "closed", lambda *_: cache if shut else None)
    store = ModelStore(place.root, StoreSettings(spare=0, hf_caches=(cache,)))
    puller = Puller(store, inspect=uninspected)
    if shut:
        with pytest.raises(ModelStoreError, match=r"cannot open .*operator is closed to them; let the group"):
            await puller.pull(place.spec())
        assert place.files() == []
        return
    path = store.engine_path(await puller.pull(place.spec()))
    assert (path.is_symlink(), path.resolve(), path.read_bytes()) == (True, place.source.resolve(), CONTENT)


async def test_a_copy_that_breaks_off_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error in the middle of the copy leaves no blob under the final name and no draft."""

    def broken(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(adopt, "_placed", lambda *_: False)
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DiskFullError, match="the model disk is full"):
        await place.take_in(place.spec())
    assert place.files() == []


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "read-only; mount it writable"), (errno.EACCES, "permission denied; give")]
)
async def test_a_store_that_cannot_be_written_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """A read-only disk or foreign folder is one sentence with the way out."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    place.root.mkdir()
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ModelStoreError, match=said):
        await place.take_in(place.spec())


async def test_a_missing_disk_is_not_made_up(place: Place, tmp_path: Path) -> None:
    """With the mount point's folder away nothing is written beside it, and what is missing is named."""
    store = ModelStore(tmp_path / "absent" / "models", StoreSettings(spare=0))
    with pytest.raises(ModelStoreError, match="mount the disk or correct models_dir"):
        await Puller(store, inspect=uninspected).pull(place.spec())
    assert not (tmp_path / "absent").exists()


async def test_another_model_of_the_same_file_name_is_refused(place: Place) -> None:
    """Two names that share a manifest are told to the operator instead of replacing each other for ever."""
    await place.take_in(place.spec())
    with pytest.raises(ModelStoreError, match="rename one of them"):
        await place.take_in(place.spec(name="org-m:q4"))


async def test_the_operators_file_is_left_as_it_was(place: Place) -> None:
    """Taking in moves nothing and changes no mode."""
    place.source.chmod(0o600)
    await place.take_in(place.spec())
    assert place.source.read_bytes() == CONTENT
    assert place.source.stat().st_mode & 0o777 == 0o600
