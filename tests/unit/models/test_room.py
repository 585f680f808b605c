"""Room in the store: what counts as taken, what pulls that run claim of it, and what goes first."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError
from rbee_runtime.models import adopt, locks, room
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.partial import Resume
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.room import ABANDONED_SECONDS
from rbee_runtime.models.sources import Listing, RemoteFile
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec

from .places import Place
from .pulling import uninspected

NOW = 10_000.0
OLD = NOW - ABANDONED_SECONDS - 1
SIZE = 60


class Slow:
    """Has files of 60 bytes, and sends the second half of each when it is told to."""

    def __init__(self, *names: str, hashed: bool = True, waits: str = "") -> None:
        self.names = names
        self.hashed = hashed
        self.waits = waits
        self.half = asyncio.Event()
        self.go_on = asyncio.Event()

    def content(self, name: str) -> bytes:
        return name.encode().ljust(SIZE, b"x")

    async def list(self) -> Listing:
        hashes = {name: hashlib.sha256(self.content(name)).hexdigest() if self.hashed else None for name in self.names}
        return Listing(tuple(RemoteFile(name, SIZE, hashes[name], etag="1", locator=name) for name in self.names))

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        yield self.content(file.name)[offset : SIZE // 2]
        if file.name.startswith(self.waits):
            self.half.set()
            await self.go_on.wait()
        yield self.content(file.name)[max(offset, SIZE // 2) :]

    async def close(self) -> None: ...


def spec(name: str) -> ModelSpec:
    return ModelSpec(name=name, source=f"https://models.example/{name}")


def store_of(root: Path, quota: int | None) -> ModelStore:
    return ModelStore(root, StoreSettings(spare=0, quota=quota), clock=lambda: NOW)


def pull(store: ModelStore, source: Slow, name: str) -> asyncio.Task[ModelReport]:
    puller = Puller(store, opener=lambda *_: source, inspect=uninspected)
    return asyncio.create_task(puller.pull(spec(name)))


@pytest.mark.parametrize("quota", [100, None])
async def test_two_pulls_do_not_get_the_same_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: int) -> None:
    """What one pull is going to take is no room for a second one, by quota and by disk, until the first ends."""
    monkeypatch.setattr(Layout, "free", lambda _: 100 if quota is None else 10_000)
    store, first, second = store_of(tmp_path / "models", quota), Slow("a.gguf"), Slow("b.gguf")
    running = pull(store, first, "a")
    await first.half.wait()
    with pytest.raises(DiskFullError, match="do not fit"):
        await pull(store, second, "b")
    running.cancel()
    await asyncio.wait({running})
    for path in store.layout.partial.iterdir():
        path.unlink()
    second.go_on.set()
    await pull(store, second, "b")
    assert [report.name for report in store.reports()] == ["b"]


@pytest.mark.parametrize("hashed", [True, False])
async def test_a_pull_counts_once(tmp_path: Path, hashed: bool) -> None:
    """A part of an earlier try, the claim and the content that came are one and the same file to the quota."""
    store, source = store_of(tmp_path / "models", 2 * SIZE), Slow("a.gguf", "b.gguf", hashed=hashed)
    broken = pull(store, source, "a")
    await source.half.wait()
    broken.cancel()
    await asyncio.wait({broken})
    assert [path.stat().st_size for path in store.layout.partial.glob("*.part")] == [SIZE // 2]
    source.go_on.set()
    await pull(store, source, "a")
    store.make_room(0, ())
    with pytest.raises(DiskFullError, match="1 are missing"):
        store.make_room(1, ())


async def test_a_file_that_came_counts_once_while_the_next_one_comes(tmp_path: Path) -> None:
    """Its claim is under the name of its content as soon as that is known, also where no source told its hash."""
    store, source = store_of(tmp_path / "models", 2 * SIZE), Slow("a.gguf", "b.gguf", hashed=False, waits="b")
    running = pull(store, source, "a")
    await source.half.wait()
    store.make_room(0, ())
    with pytest.raises(DiskFullError, match="1 are missing"):
        store.make_room(1, ())
    source.go_on.set()
    await running


async def test_a_copy_that_is_being_made_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came of it is on the disk, so that only its rest is still to come."""
    store, source = store_of(tmp_path / "models", None), tmp_path / "mine.gguf"
    source.write_bytes(bytes(SIZE))
    store.layout.prepare()
    monkeypatch.setattr(adopt, "_placed", lambda *_: False)
    monkeypatch.setattr(adopt, "_BLOCK", SIZE // 2)
    monkeypatch.setattr(Layout, "free", lambda layout: 100 - sum(p.stat().st_size for p in layout.partial.iterdir()))
    add, seen = Progress.add, list[str]()

    def halfway(progress: Progress, size: int) -> None:
        add(progress, size)
        if not seen:
            copy = next(store.layout.partial.iterdir())
            # So few bytes wait in a buffer; those of a real block do not.
            os.truncate(copy, SIZE // 2)
            store.make_room(40, ())
            with pytest.raises(DiskFullError, match="1 are missing"):
                store.make_room(41, ())
            seen.append(copy.name)

    monkeypatch.setattr(Progress, "add", halfway)
    puller = Puller(store, inspect=uninspected)
    await puller.pull(ModelSpec(name="mine", source=f"file:{source}"))
    assert (len(seen), [report.name for report in store.reports()]) == (1, ["mine"])


class Rest:
    """Partial and quarantined files of 30 bytes in a store with an idle model of 30."""

    def __init__(self, place: Place) -> None:
        place.add("idle", 30, 0)
        self.store = store_of(place.root, 100)
        self.layout = place.store.layout

    def part(self, key: str, model: str, when: float = OLD) -> None:
        part = self.layout.partial / f"{key}.part"
        part.write_bytes(bytes(30))
        part.with_suffix(".json").write_bytes(msgspec.json.encode(Resume(origin="o", name="n", model=model)))
        for path in (part, part.with_suffix(".json")):
            os.utime(path, (when, when))

    def aside(self) -> None:
        (self.layout.quarantine / "wrong").write_bytes(bytes(30))

    def left(self) -> set[str]:
        paths = (path for folder in (self.layout.partial, self.layout.quarantine) for path in folder.iterdir())
        return {path.name for path in paths if path.suffix != ".json"} | {each.name for each in self.store.reports()}


@pytest.mark.parametrize(
    ("size", "left"),
    [
        (10, {"wrong", "left.part", "idle"}),
        (40, {"left.part", "idle"}),
        (70, {"idle"}),
        (100, set()),
    ],
)
def test_leftovers_count_and_go_before_models(place: Place, size: int, left: set[str]) -> None:
    """Quarantined files go first, then partial ones that nobody goes on with, then models."""
    rest = Rest(place)
    rest.part("left", "gone")
    rest.aside()
    rest.store.make_room(size, ())
    assert rest.left() == left


def test_leftovers_over_the_quota_are_collected(place: Place) -> None:
    """A quota that was lowered costs leftovers before models."""
    rest = Rest(place)
    rest.part("left", "gone")
    rest.aside()
    rest.store.settings = StoreSettings(spare=0, quota=70)
    assert (rest.store.collect(()), rest.left()) == ((), {"left.part", "idle"})


@pytest.mark.parametrize("why", ["wanted", "young", "locked", "pulled", "claimed"])
def test_a_partial_file_that_somebody_goes_on_with_stays(place: Place, why: str) -> None:
    """A wanted model's, a neighbour's of a moment ago, one at work and one that a pull counts on: none is removed."""
    rest = Rest(place)
    key = f"sha256-{'a' * 64}"
    rest.part(key, "new", NOW - 1 if why == "young" else OLD)
    rest.store.claims.begin("new")
    rest.store.claims.hold("new", {key: 30} if why == "claimed" else {})
    if why == "pulled":
        store_of(place.root, None).leases.pull("new", ["a" * 64])
    lock = key if why == "locked" else "other"
    with locks.tried(rest.layout.locks / f"{lock}.lock"):
        with pytest.raises(DiskFullError, match="the quota of 100 bytes"):
            rest.store.make_room(80, ["idle", "new"] if why == "wanted" else ["idle"])
        rest.store.make_room(70, ["new"] if why == "wanted" else [])
    assert rest.left() == {f"{key}.part"}


STRAYS = {
    "old": (set[str](), ""),
    "young": ({"stray", "idle"}, "30 bytes there may be of no model: they go 15 minutes after they came"),
    "pulled": ({"stray", "idle"}, "unless a pull counts on them"),
    "maybe of a damaged manifest": ({"stray", "idle"}, "nobody can tell, because the manifest .*other.json is damaged"),
}


@pytest.mark.parametrize("why", STRAYS)
def test_content_of_no_model_goes_before_models(place: Place, why: str) -> None:
    """What a pull left that nobody goes on with; as long as it may be needed it stays, and a refusal says so."""
    left, said = STRAYS[why]
    place.add("idle", 30, 0)
    stray = place.store.layout.blob("b" * 64)
    stray.write_bytes(bytes(30))
    now = stray.lstat().st_ctime + (1 if why == "young" else ABANDONED_SECONDS + 1)
    store = ModelStore(place.root, StoreSettings(spare=0, quota=60), clock=lambda: now)
    if why == "pulled":
        store.leases.pull("new", ["b" * 64])
    if why == "maybe of a damaged manifest":
        place.store.layout.manifest("other").write_bytes(b"{")
    if said:
        with pytest.raises(DiskFullError, match=said):
            store.make_room(60, ())
    else:
        store.make_room(30, ())
        assert [report.name for report in store.reports()] == ["idle"]
        store.make_room(60, ())
    names = {"stray"} if stray.exists() else set()
    assert names | {report.name for report in store.reports()} == left


def test_what_a_neighbour_brings_counts(place: Place) -> None:
    """Another hive's pull on the same disk is seen by what came of it."""
    store = store_of(place.root, 100)
    place.add("m", 30, NOW)
    (store.layout.partial / "theirs.part").write_bytes(bytes(30))
    (store.layout.partial / "draft-0-1").write_bytes(bytes(30))
    (store.layout.blobs / f"sha256-{'b' * 64}").write_bytes(bytes(5))
    for path in store.layout.partial.iterdir():
        os.utime(path, (NOW, NOW))
    store.make_room(5, ())
    with pytest.raises(DiskFullError, match="1 are missing"):
        store.make_room(6, ())


def test_what_is_committed_while_room_is_made_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull that ends between the looks at leases and at manifests is seen by one of both."""
    place.add("idle", 30, 0)
    new = ModelFile(name="m.gguf", sha256="b" * 64, size=30)
    place.store.layout.blob(new.sha256).write_bytes(bytes(30))
    place.add("m", 30, 0)
    now = place.store.layout.blob(new.sha256).lstat().st_ctime + ABANDONED_SECONDS + 1
    store = ModelStore(place.root, StoreSettings(spare=0, quota=100), clock=lambda: now)
    store.leases.pull("m", [new.sha256])
    used = room.used

    def ends(*given: Any) -> int:
        store.commit(ModelReport(name="m", size=30, files=(new,)))
        store.leases.pulled("m")
        return used(*given)

    monkeypatch.setattr(room, "used", ends)
    store.make_room(30, ["m"])
    assert [report.name for report in store.reports()] == ["m"]


def test_a_try_without_hashes_does_not_hold_what_an_earlier_one_counted_on(place: Place) -> None:
    """It cannot use those files, and nobody else could have their room."""
    place.store.layout.prepare()
    place.store.leases.pull("m", ["a" * 64])
    place.store.leases.paused("m")
    place.store.leases.pull("m", [])
    assert place.store.leases.blobs() == frozenset()
