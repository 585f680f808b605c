"""The model store: what counts as there, what enters, what a refusal leaves behind."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models import store as module
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec, encode

CONTENT = b"GGUF" + bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = ModelFile(name="m.gguf", sha256=DIGEST, size=len(CONTENT))


class Place(NamedTuple):
    store: ModelStore
    root: Path
    source: Path

    def spec(self, **changes: Any) -> ModelSpec:
        spec = ModelSpec(name="org/m:q4", source=f"file:{self.source}", files=(FILE,))
        return msgspec.structs.replace(spec, **changes)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = tmp_path / "operator" / "m.gguf"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    return Place(ModelStore(tmp_path / "models"), tmp_path / "models", source)


@pytest.mark.parametrize("files", [(FILE,), ()], ids=["hash known", "hash unknown"])
@pytest.mark.parametrize("link", [True, False], ids=["link", "copy"])
def test_a_file_is_taken_in_under_its_own_hash(
    place: Place, monkeypatch: pytest.MonkeyPatch, files: tuple[ModelFile, ...], link: bool
) -> None:
    """The blob has the content, the manifest names it, and the model is found from then on."""
    if not link:
        monkeypatch.setattr(module, "_linked", lambda *_: False)
    spec = place.spec(files=files)
    assert place.store.find(spec) is None
    report = place.store.adopt(spec)
    assert place.files() == ["org-m-q4.json", f"sha256-{DIGEST}"]
    assert place.store.path_of(report.files[0]).read_bytes() == CONTENT
    assert place.store.find(spec) == report == place.store.reports()[0]


def test_taking_in_twice_is_taking_in_once(place: Place) -> None:
    """A second adoption finds the blob and copies nothing, even with the source gone."""
    place.store.adopt(place.spec())
    place.source.unlink()
    assert place.store.adopt(place.spec()).files == (FILE,)


def wrong(**changes: Any) -> tuple[ModelFile, ...]:
    return (msgspec.structs.replace(FILE, **changes),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": wrong(sha256="0" * 64)}, "has sha256 .*, the inventory says 0000"),
        ({"files": wrong(size=3)}, "bytes, the inventory says 3"),
        ({"source": "file:/nowhere/m.gguf"}, "is not a file here; run the deploy"),
        ({"source": "file:/"}, "is not a file here"),
        ({"source": "fake:"}, "has no file"),
        ({"files": (FILE, FILE)}, "2 files"),
    ],
)
def test_a_refusal_is_a_sentence_and_leaves_nothing(place: Place, changes: dict[str, Any], said: str) -> None:
    """Wrong content, wrong size and missing files leave neither blob nor manifest."""
    with pytest.raises(ModelStoreError, match=said):
        place.store.adopt(place.spec(**changes))
    assert place.files() == []


def test_a_full_disk_is_seen_before_the_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the room for the model and a margin nothing is written."""
    monkeypatch.setattr(module, "_linked", lambda *_: False)
    monkeypatch.setattr(module, "SPARE_BYTES", 2**62)
    with pytest.raises(ModelStoreError, match="free space there or set models_dir"):
        place.store.adopt(place.spec())
    assert place.files() == []


def test_a_copy_that_breaks_off_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error in the middle of the copy leaves no blob under the final name and no draft."""

    def broken(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "_linked", lambda *_: False)
    monkeypatch.setattr(module.os, "fsync", broken)
    with pytest.raises(ModelStoreError, match="the model disk is full"):
        place.store.adopt(place.spec())
    assert place.files() == []


def test_what_a_killed_hive_left_is_swept(place: Place) -> None:
    """Drafts of this host go with the next model taken in; those of another host on the same disk stay."""
    blobs = place.root / "blobs"
    for host in (platform.node(), "other"):
        (blobs / f".draft-{host}-x").mkdir(parents=True)
        (blobs / f".draft-{host}-x" / "blob").write_bytes(b"part")
    place.store.adopt(place.spec())
    assert [path.name for path in blobs.glob(".draft-*")] == [".draft-other-x"]


def test_another_model_of_the_same_file_name_is_refused(place: Place) -> None:
    """Two names that share a manifest are told to the operator instead of replacing each other for ever."""
    place.store.adopt(place.spec())
    with pytest.raises(ModelStoreError, match="rename one of them"):
        place.store.adopt(place.spec(name="org-m:q4"))


def test_an_incomplete_model_is_not_there(place: Place) -> None:
    """A manifest without its blob, or with a blob of another size, does not count."""
    report = place.store.adopt(place.spec())
    blob = place.store.path_of(FILE)
    blob.unlink()
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())
    blob.write_bytes(b"short")
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())
    assert report.files == (FILE,)


@pytest.mark.parametrize("manifest", [b"", b"{", encode(ModelReport(name="org/m:q4", size=0))])
def test_a_damaged_manifest_is_no_model(place: Place, manifest: bytes) -> None:
    """It neither counts nor gets in the way of taking the model in again."""
    (place.root / "manifests").mkdir(parents=True)
    (place.root / "manifests" / "org-m-q4.json").write_bytes(manifest)
    assert (place.store.find(place.spec()), place.store.reports()) == (None, ())
    place.store.adopt(place.spec())
    assert place.store.find(place.spec()) is not None


def test_a_changed_model_is_not_the_old_one(place: Place) -> None:
    """A spec with other files does not find the model of the same name."""
    place.store.adopt(place.spec())
    assert place.store.find(place.spec(files=wrong(sha256="1" * 64))) is None


def test_the_operators_file_is_left_as_it_was(place: Place) -> None:
    """Taking in moves nothing and changes no mode."""
    place.source.chmod(0o600)
    place.store.adopt(place.spec())
    assert place.source.read_bytes() == CONTENT
    assert place.source.stat().st_mode & 0o777 == 0o600
