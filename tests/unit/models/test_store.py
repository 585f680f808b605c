"""The model store: what counts as there, what enters from this host, what goes, and what a refusal leaves behind."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelStoreError, RbeeError, ReferenceFormError
from rbee_runtime.models import adopt, views
from rbee_runtime.models.collect import IDLE_SECONDS
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.store import ModelStore
from rbee_runtime.models.sweep import ORPHAN_SECONDS, sweep
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec, encode

from .pulling import uninspected

CONTENT = b"GGUF" + bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = ModelFile(name="m.gguf", sha256=DIGEST, size=len(CONTENT))
CONTENT_FOLDERS = ("blobs", "manifests", "partial", "quarantine", "views")


class Place(NamedTuple):
    store: ModelStore
    root: Path
    source: Path

    def spec(self, **changes: Any) -> ModelSpec:
        spec = ModelSpec(name="org/m:q4", source=f"file:{self.source}", files=(FILE,))
        return msgspec.structs.replace(spec, **changes)

    async def take_in(self, spec: ModelSpec) -> ModelReport:
        return await Puller(self.store, inspect=uninspected).pull(spec)

    def files(self) -> list[str]:
        return sorted(p.name for name in CONTENT_FOLDERS for p in (self.root / name).rglob("*") if p.is_file())

    def add(self, name: str, size: int, used: float) -> None:
        """Put a model of `size` bytes there that was last used at `used`."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        self.store.layout.prepare()
        self.store.layout.blob(digest).write_bytes(bytes(size))
        self.store.commit(ModelReport(name=name, size=size, files=(ModelFile(name="f", sha256=digest, size=size),)))
        os.utime(self.root / "uses" / name, (used, used))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = tmp_path / "operator" / "m.gguf"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    store = ModelStore(tmp_path / "models", StoreSettings(spare=0), clock=lambda: 10_000.0)
    return Place(store, tmp_path / "models", source)


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


def test_no_folder_is_made_with_a_special_mode(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders get the group from the one above, never by a mode bit: units with RestrictSUIDSGID may not ask for it."""
    modes: list[int] = []
    plain = os.mkdir

    def recorded(path: str, mode: int = 0o777) -> None:
        modes.append(mode)
        plain(path, mode)

    monkeypatch.setattr(os, "mkdir", recorded)
    place.store.layout.prepare()
    views.build(place.store.layout, ModelReport(name="m", size=1, files=(FILE,)))
    assert len(modes) > 5
    assert [oct(mode) for mode in modes if mode & 0o7000] == []


async def test_taking_in_twice_is_taking_in_once(place: Place) -> None:
    """With its content there, a model comes back without its source, and without a copy."""
    await place.take_in(place.spec())
    place.source.unlink()
    (place.root / "manifests" / "org-m-q4.json").unlink()
    assert (await place.take_in(place.spec())).files == (FILE,)


def wrong(**changes: Any) -> tuple[ModelFile, ...]:
    return (msgspec.structs.replace(FILE, **changes),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": wrong(sha256="0" * 64)}, "has sha256 .*, the inventory says 0000"),
        ({"files": wrong(size=3)}, "bytes, the inventory says 3"),
        ({"source": "file:/nowhere/m.gguf"}, "is not a file here; run the deploy"),
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
    monkeypatch.setattr(adopt.os, "fsync", broken)
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

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ModelStoreError, match=said):
        await place.take_in(place.spec())


async def test_a_missing_disk_is_not_made_up(place: Place, tmp_path: Path) -> None:
    """With the mount point's folder away nothing is written beside it, and what is missing is named."""
    store = ModelStore(tmp_path / "absent" / "models", StoreSettings(spare=0))
    with pytest.raises(ModelStoreError, match="mount the disk or correct models_dir"):
        await Puller(store, inspect=uninspected).pull(place.spec())
    assert not (tmp_path / "absent").exists()


async def test_a_read_only_store_in_our_layout_serves(place: Place) -> None:
    """A models folder baked into an image is used as it is, with nothing written to it."""
    await place.take_in(place.spec())
    for name in ("uses", "locks", "partial"):
        for path in (place.root / name).glob("*"):
            path.unlink()
        (place.root / name).rmdir()
    before = sorted(place.root.rglob("*"))
    assert (await place.take_in(place.spec())).files == (FILE,)
    assert len(place.store.reports()) == 1
    assert sorted(place.root.rglob("*")) == before


async def test_another_model_of_the_same_file_name_is_refused(place: Place) -> None:
    """Two names that share a manifest are told to the operator instead of replacing each other for ever."""
    await place.take_in(place.spec())
    with pytest.raises(ModelStoreError, match="rename one of them"):
        await place.take_in(place.spec(name="org-m:q4"))


async def test_an_incomplete_model_is_not_there(place: Place) -> None:
    """A manifest without its blob, or with a blob of another size, does not count."""
    await place.take_in(place.spec())
    blob = place.store.path_of(FILE)
    blob.unlink()
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())
    blob.write_bytes(b"short")
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())


HOSTILE = ModelReport(name="org/m:q4", size=1, files=(ModelFile(name="../../x", sha256="../../x", size=1),))


@pytest.mark.parametrize("manifest", [b"", b"{", encode(ModelReport(name="org/m:q4", size=0)), encode(HOSTILE)])
async def test_a_damaged_manifest_is_no_model(place: Place, manifest: bytes) -> None:
    """It neither counts nor gets in the way of taking the model in again."""
    (place.root / "manifests").mkdir(parents=True)
    (place.root / "manifests" / "org-m-q4.json").write_bytes(manifest)
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())
    await place.take_in(place.spec())
    assert place.store.find(place.spec()) is not None


async def test_a_changed_model_is_not_the_old_one(place: Place) -> None:
    """A spec with other files or another source does not find the model of the same name."""
    await place.take_in(place.spec())
    assert place.store.find(place.spec(files=wrong(sha256="1" * 64))) is None
    assert place.store.find(place.spec(files=(), source="file:/elsewhere.gguf")) is None


async def test_the_operators_file_is_left_as_it_was(place: Place) -> None:
    """Taking in moves nothing and changes no mode."""
    place.source.chmod(0o600)
    await place.take_in(place.spec())
    assert place.source.read_bytes() == CONTENT
    assert place.source.stat().st_mode & 0o777 == 0o600


async def test_verify_puts_rot_aside_and_the_model_comes_anew(place: Place) -> None:
    """A flipped bit is found, the blob leaves the store, and the next pull mends the model."""
    copy = place.source.with_name("copy.gguf")
    copy.write_bytes(CONTENT)
    await place.take_in(place.spec())
    blob = place.store.path_of(FILE)
    assert place.store.verify("org/m:q4") == ()
    blob.unlink()
    blob.write_bytes(b"X" + CONTENT[1:])
    assert place.store.verify("org/m:q4") == ("m.gguf",)
    assert (place.store.reports(), place.files()) == ((), ["org-m-q4.json", f"sha256-{DIGEST}"])
    await place.take_in(place.spec(source=f"file:{copy}"))
    assert blob.read_bytes() == CONTENT


async def test_shared_content_goes_with_its_last_model(place: Place) -> None:
    """Removing one of two models with the same file frees nothing; removing the other does."""
    await place.take_in(place.spec())
    await place.take_in(place.spec(name="second"))
    with pytest.raises(ModelStoreError, match="in use by a worker"):
        place.store.remove("second", in_use={"second"})
    assert place.store.remove("org/m:q4") == 0
    assert place.store.remove("second") == len(CONTENT)
    assert place.files() == []


NOW = 10_000.0


@pytest.mark.parametrize(
    ("size", "keep", "gone"),
    [
        (100, (), []),
        (150, (), ["old"]),
        (250, (), ["old", "mid"]),
        (150, ("old",), ["mid"]),
        (150, ("old", "mid"), None),
        (400, (), None),
    ],
)
def test_the_least_recently_used_goes_for_a_new_one(
    place: Place, size: int, keep: tuple[str, ...], gone: list[str] | None
) -> None:
    """Pinned, wanted and lately used models stay; where the rest is not enough, nothing goes at all."""
    ages = {"old": 9000.0, "mid": 5000.0, "pinned": 9500.0, "fresh": IDLE_SECONDS - 1}
    for name, age in ages.items():
        place.add(name, 100, NOW - age)
    place.store.pin("pinned", pinned=True)
    store = ModelStore(place.root, StoreSettings(spare=0, quota=500), clock=lambda: NOW)
    if gone is None:
        with pytest.raises(DiskFullError, match="unpin or remove a model"):
            store.make_room(size, keep)
        gone = []
    else:
        store.make_room(size, keep)
    assert {report.name for report in store.reports()} == set(ages) - set(gone)


def test_what_nobody_came_back_for_is_swept(place: Place) -> None:
    """Abandoned partial files, old quarantine and blobs of no model go; what is younger or locked stays."""
    place.add("m", 10, NOW)
    layout = place.store.layout
    for name in ("partial/a.part", "partial/a.json", "quarantine/b", "blobs/sha256-c"):
        (place.root / name).write_bytes(b"x")
    now = max(path.lstat().st_ctime for path in place.root.rglob("*"))
    assert sweep(layout, place.store.manifests(), now=now) == ()
    assert set(sweep(layout, place.store.manifests(), now=now + ORPHAN_SECONDS * 8)) == {"a.part", "b", "sha256-c"}
    assert len(place.store.reports()) == 1


PIECES = (
    "..",
    "%2e%2e",
    "%252e%252e",
    "\0",
    "\uff0e\uff0e",
    "a" * 300,
    "a b",
    "~",
    "$HOME",
    "\u202e",
    "-x",
    ".hidden",
    "a\n",
    "",
)
SHAPES = (
    "{}",
    "{}/m",
    "m/{}",
    "m:{}",
    "/{}",
    "{}/../..",
    "m/{}/x",
    "m\\{}",
    "./{}",
    "m{}/",
    "//{}",
    "{}:t:u",
    "../{}",
    "x;{}",
    "|{}",
    "{}\t",
    "'{}'",
    '"{}"',
    "*{}",
    "?{}",
    "{}?",
    "[{}]",
    "m@{}",
    "#{}",
    "{}#",
    "`{}`",
    "m,{}",
    "({})",
    "é{}",
    "+{}",
)


def test_t13_hostile_names_change_nothing(place: Place) -> None:
    """Four hundred names that try to leave the store are refused wherever a name enters, and no file appears."""
    names = [shape.format(piece) for shape in SHAPES for piece in PIECES]
    place.store.layout.prepare()
    before = sorted(place.root.parent.rglob("*"))
    assert len(names) >= 400
    for name in names:
        for entry in (place.store.named, place.store.remove, place.store.layout.view, place.store.facts):
            with pytest.raises(ReferenceFormError, match="is not allowed"):
                entry(name)
    assert sorted(place.root.parent.rglob("*")) == before
