"""The model store: what counts as there, what goes, and which names get in."""

import os

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelStoreError, ReferenceFormError
from rbee_runtime.models import views
from rbee_runtime.models.collect import IDLE_SECONDS
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.store import ModelStore
from rbee_runtime.models.sweep import ORPHAN_SECONDS, sweep
from rbee_runtime.protocol import ModelFile, ModelReport, encode
from tests.unit.damage import UNREADABLE

from .places import CONTENT, DIGEST, FILE, Place, wrong


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


async def test_an_incomplete_model_is_not_there(place: Place) -> None:
    """A manifest without its blob, or with a blob of another size, does not count."""
    await place.take_in(place.spec())
    blob = place.store.path_of(FILE)
    blob.unlink()
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())
    blob.write_bytes(b"short")
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())


HOSTILE = ModelReport(name="org/m:q4", size=1, files=(ModelFile(name="../../x", sha256="../../x", size=1),))


@pytest.mark.parametrize("manifest", [*UNREADABLE, encode(ModelReport(name="org/m:q4", size=0)), encode(HOSTILE)])
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


async def test_a_model_of_another_name_is_not_verified(place: Place) -> None:
    """A name that shares a file name with a model is not that model: nothing of it is hashed or put aside."""
    await place.take_in(place.spec())
    place.store.path_of(FILE).write_bytes(b"rot")
    with pytest.raises(ModelStoreError, match="model org-m:q4 is not in the store"):
        place.store.verify("org-m:q4")
    assert place.files() == ["org-m-q4.json", f"sha256-{DIGEST}"]
    assert place.store.verify("org/m:q4") == ("m.gguf",)


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


@pytest.mark.parametrize(
    ("free", "said"), [(10, "with 50 bytes to spare: 140 are"), (10_000, "with the quota of 150 bytes: 50 are")]
)
def test_what_is_too_small_is_named(place: Place, monkeypatch: pytest.MonkeyPatch, free: int, said: str) -> None:
    """A full disk is not called a quota: the person would raise the wrong one."""
    place.add("fresh", 100, NOW)
    monkeypatch.setattr(Layout, "free", lambda _: free)
    store = ModelStore(place.root, StoreSettings(spare=50, quota=150), clock=lambda: NOW)
    with pytest.raises(DiskFullError, match=said):
        store.make_room(100, ())


def test_what_nobody_came_back_for_is_swept(place: Place) -> None:
    """Abandoned partial files, old quarantine and blobs of no model go; what is younger or locked stays."""
    place.add("m", 10, NOW)
    layout = place.store.layout
    kept = f"{next(layout.blobs.iterdir()).name}.json"
    for name in ("partial/a.part", "partial/a.json", "quarantine/b", "blobs/sha256-c", f"chunks/{kept}"):
        (place.root / name).write_bytes(b"x")
    (layout.chunks / "sha256-c.json").write_bytes(b"x")
    now = max(path.lstat().st_ctime for path in place.root.rglob("*"))
    assert sweep(layout, place.store.manifests(), now=now) == ()
    assert set(sweep(layout, place.store.manifests(), now=now + ORPHAN_SECONDS * 8)) == {
        *("a.part", "b", "sha256-c", "sha256-c.json")
    }
    assert len(place.store.reports()) == 1
    assert [path.name for path in layout.chunks.iterdir()] == [kept]


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


@pytest.mark.parametrize("manifest", [b"{", encode(HOSTILE)])
def test_a_damaged_manifest_is_told_once_per_change(
    place: Place, manifest: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal names the file and what is wrong once and again when it changes, and nothing once it is mended."""
    place.add("m", 10, NOW)
    path = place.store.layout.manifest("m")
    sound = path.read_bytes()
    for content in (manifest, manifest + b" "):
        path.write_bytes(content)
        for _ in range(3):
            assert place.store.reports() == ()
    assert str(path) in place.store.damage("m")
    path.write_bytes(sound)
    assert (len(place.store.reports()), place.store.damage("m")) == (1, "")
    told = capsys.readouterr()
    assert (told.out + told.err).count("event=model_manifest_damaged") == 2
