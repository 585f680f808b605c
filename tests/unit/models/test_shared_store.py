"""Several hives on one disk: what one uses stays whatever another does, and nobody's word is lost."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelStoreError
from rbee_runtime.models import adopt, locks
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.leases import LEASE_SECONDS
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import Listing, RemoteFile
from rbee_runtime.models.store import ModelStore
from rbee_runtime.models.sweep import LEFT_SECONDS
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec

from .pulling import uninspected

NOW = 1_000_000.0


class Disk:
    """One disk; `hive` is a store on it as that hive sees it, all at the time `now`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = NOW

    def hive(self, name: str, quota: int | None = None) -> ModelStore:
        return ModelStore(self.root, StoreSettings(spare=0, quota=quota), holder=name, clock=lambda: self.now)

    def add(self, name: str, *contents: bytes) -> None:
        """Put a model there that nobody used for a day."""
        store, files = self.hive("deploy"), []
        store.layout.prepare()
        for content in contents:
            digest = hashlib.sha256(content).hexdigest()
            store.layout.blob(digest).write_bytes(content)
            files.append(ModelFile(name=f"{digest[:4]}.gguf", sha256=digest, size=len(content)))
        store.commit(ModelReport(name=name, size=sum(file.size for file in files), files=tuple(files)))
        os.utime(self.root / "uses" / name, (NOW - 86400, NOW - 86400))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    found = Disk(tmp_path / "models")
    found.add("m", b"content")
    return found


class Source:
    """Has files of these contents, and notes which are asked for."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.asked: list[str] = []

    async def list(self) -> Listing:
        return Listing(tuple(RemoteFile(name, len(content)) for name, content in self.contents.items()))

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        self.asked.append(file.name)
        yield self.contents[file.name][offset:]

    async def close(self) -> None: ...


REMOVALS: dict[str, Callable[[ModelStore], object]] = {
    "by hand": lambda store: store.remove("m"),
    "for room": lambda store: store.make_room(5, ()),
    "over quota": lambda store: store.collect(()),
}


@pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
def test_what_another_hive_uses_is_not_removed(disk: Disk, removal: Callable[[ModelStore], object]) -> None:
    """Its lease holds for as long as a hive may be away; then, or once it is given up, the model may go."""
    user, other = disk.hive("user"), disk.hive("other", quota=1)
    user.leases.keep(["m"])
    disk.now += LEASE_SECONDS - 1
    with suppress(ModelStoreError):
        removal(other)
    assert user.named("m") is not None
    disk.now += 2
    if removal is REMOVALS["for room"]:
        other = disk.hive("other", quota=8)
    removal(other)
    assert user.named("m") is None


def test_a_lease_goes_with_its_use_and_does_not_bind_its_holder(disk: Disk) -> None:
    """A hive may remove what only it holds, and what it no longer names is free for the others at once."""
    user, other = disk.hive("user"), disk.hive("other")
    user.leases.keep(["m"])
    with pytest.raises(ModelStoreError, match=r"in use by user-.*take it out of that hive's models"):
        other.remove("m")
    disk.hive("user").leases.keep([])
    assert other.leases.others() == {}
    user.leases.keep(["m"])
    assert user.remove("m") == len(b"content")
    assert list((disk.root / "uses").iterdir()) == []


def test_a_heartbeat_keeps_a_lease(disk: Disk) -> None:
    """Renewed each minute it holds for days."""
    user, other = disk.hive("user"), disk.hive("other")
    for _ in range(5):
        user.leases.keep(["m"])
        disk.now += LEASE_SECONDS * 0.9
    assert list(other.leases.others()) == ["m"]


def test_leases_and_removals_wait_for_each_other(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is asked for during a removal comes after it, so that its holder finds the model gone."""
    monkeypatch.setattr(locks, "BRIEF_SECONDS", 0.0)
    user = disk.hive("user")
    with locks.brief(disk.hive("other").leases.lock), pytest.raises(ModelStoreError, match="held by somebody else"):
        user.leases.keep(["m"])
    assert user.leases.others() == {}


def test_pins_of_several_hives_are_all_kept(disk: Disk) -> None:
    """Twelve hives that pin at the same moment lose none of the twelve."""
    names = [f"m{number}" for number in range(12)]
    start = threading.Barrier(len(names))

    def pin(name: str) -> None:
        start.wait(20)
        disk.hive(name).pin(name, pinned=True)

    threads = [threading.Thread(target=pin, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert disk.hive("any").pins.known() == set(names)


def test_a_heartbeat_between_does_not_take_a_pull_for_left(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute's look that comes right after a pull took its lease leaves it."""
    store, brief = disk.hive("h"), locks.brief

    @contextmanager
    def followed(path: Path) -> Iterator[None]:
        with brief(path):
            yield
        monkeypatch.undo()
        store.leases.keep(["m"])

    monkeypatch.setattr(locks, "brief", followed)
    store.leases.pull("new", ["ab"])
    assert store.leases.blobs() == {"ab"}


def test_a_pull_may_end_during_a_heartbeat(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls end in threads of their own, while the minute's look renews the leases of all."""
    leases = disk.hive("h").leases
    for name in ("a", "b", "c"):
        leases.pull(name, [name])
    monkeypatch.setattr(leases, "_beat", lambda path: leases.pulled("b") if path.suffix == ".pull" else None)
    leases.keep(["m"])
    assert leases.blobs() == {"a", "c"}


async def test_a_pull_that_is_cancelled_leaves_no_lease(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a thread is just taking it, it is given up afterwards, and no heartbeat renews it."""
    store, taking, going = disk.hive("h"), threading.Event(), threading.Event()
    pull = store.leases.pull

    def slow(name: str, blobs: Collection[str]) -> None:
        taking.set()
        going.wait(20)
        pull(name, blobs)

    monkeypatch.setattr(store.leases, "pull", slow)
    puller = Puller(store, inspect=uninspected, opener=lambda *_: Source({"a.gguf": b"a"}))
    pulling = asyncio.create_task(puller.pull(ModelSpec(name="new", source="https://models.example/x")))
    await asyncio.to_thread(taking.wait, 20)
    pulling.cancel()
    await asyncio.sleep(0.05)
    going.set()
    await asyncio.gather(pulling, return_exceptions=True)
    store.leases.keep(["m"])
    assert [path.name for path in (disk.root / "uses").glob("*.pull")] == []


async def test_what_came_of_a_long_pull_is_leased(disk: Disk) -> None:
    """A file whose hash nobody announced counts for the other hives as soon as it is there."""
    store, seen = disk.hive("h"), []

    class Watched(Source):
        async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
            seen.append(len(disk.hive("other").leases.blobs()))
            async for block in super().read(file, offset=offset):
                yield block

    source = Watched({"a.gguf": b"a", "b.gguf": b"b"})
    puller = Puller(store, inspect=uninspected, opener=lambda *_: source)
    await puller.pull(ModelSpec(name="new", source="https://models.example/x"))
    assert (seen, store.leases.blobs()) == ([0, 1], frozenset())


@pytest.mark.parametrize("leased", [True, False])
def test_a_sweep_leaves_what_a_pull_counts_on(disk: Disk, leased: bool) -> None:
    """A blob without a manifest goes after a week unless a pull is at its model; leases of hives that are gone go."""
    disk.add("old", b"orphan")
    disk.hive("deploy").layout.manifest("old").unlink()
    disk.hive("gone").leases.keep(["m"])
    gone = next((disk.root / "uses").glob("m.gone-*"))
    disk.now = max(path.lstat().st_ctime for path in disk.root.rglob("*")) + LEFT_SECONDS + 1
    sha256 = hashlib.sha256(b"orphan").hexdigest()
    if leased:
        disk.hive("user").leases.pull("old", [sha256])
    swept = disk.hive("other").sweep()
    assert set(swept) == {gone.name} | (set() if leased else {f"sha256-{sha256}"})
    assert disk.hive("other").named("m") is not None


async def test_room_is_made_for_a_copy(disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of this host that has to be copied gets its room from idle models, as a download does."""
    monkeypatch.setattr(adopt, "_placed", lambda *_: False)
    store, path = disk.hive("h"), tmp_path / "mine.gguf"
    path.write_bytes(b"mine")
    monkeypatch.setattr(Layout, "free", lambda _: 0 if store.layout.manifest("m").exists() else 7)
    await Puller(store, inspect=uninspected).pull(ModelSpec(name="mine", source=f"file:{path}"))
    assert [report.name for report in store.reports()] == ["mine"]


STEPS = {
    "dropped from the inventory": ("a+ a-", False),
    "dropped by one of two hives": ("a+ b+ a-", True),
    "dropped by both": ("a+ b+ a- b-", False),
    "never in the inventory": ("a-", False),
    "a person's, dropped from the inventory": ("p+ a+ a-", True),
    "a person's, who came after the inventory": ("a+ p+ a-", True),
    "a person's, who took it back": ("a+ p+ p-", False),
    "taken back, and still in the inventory": ("a+ p- a+", True),
}


@pytest.mark.parametrize(("steps", "stays"), STEPS.values(), ids=STEPS)
def test_a_pin_goes_with_who_set_it(disk: Disk, steps: str, stays: bool) -> None:
    """What inventories pinned goes with the last of them, what a person pinned only by a person."""
    for who, sign in (tuple(step) for step in steps.split()):
        pins = disk.hive(who).pins
        (pins.by_person if who == "p" else pins.by_inventory)("m", pinned=sign == "+")
    assert [report.pinned for report in disk.hive("any").reports()] == [stays]


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_a_pin_cut_off_anywhere_is_put_right(disk: Disk, fails_at: int) -> None:
    """A disk that fails between two files loses neither a pin nor who set it."""
    store = disk.hive("h")
    write, written = store._write, []

    def failing(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == fails_at + 1:
            raise ModelStoreError("full")
        write(path, data)

    store.pins._write = failing
    for pinned in (True, True, False, False):
        with suppress(ModelStoreError):
            store.pins.by_inventory("m", pinned=pinned)
    assert (store.pins.known(), store.pins._asked()) == (frozenset(), {})
    assert len(written) >= 4


def test_pins_of_an_older_release_are_a_persons(disk: Disk) -> None:
    """Nobody wrote who set them, so that no inventory takes them away."""
    (disk.root / "pins.json").write_text('["m"]')
    for pinned in (True, False):
        disk.hive("h").pins.by_inventory("m", pinned=pinned)
    assert disk.hive("h").pins.known() == {"m"}


async def test_room_is_not_made_of_what_the_pull_itself_needs(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle model that shares a file with the new one may go, the shared file stays and is not fetched again."""
    shared, new = b"s" * 1000, b"n" * 500
    disk.add("old", shared, b"o" * 700)
    files = tuple(
        ModelFile(name=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for name, content in (("a.gguf", shared), ("b.gguf", new))
    )
    store = disk.hive("h")
    monkeypatch.setattr(Layout, "free", lambda _: 600 if not store.layout.manifest("old").exists() else 0)
    source = Source({"b.gguf": new, "a.gguf": shared})
    puller = Puller(store, inspect=uninspected, opener=lambda *_: source)
    report = await puller.pull(ModelSpec(name="new", source="https://models.example/x", files=files))
    assert (store.named("old"), store.named("new")) == (None, report)
    assert source.asked == ["b.gguf"]


async def test_nothing_goes_for_room_that_its_going_does_not_make(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose files the new one needs frees nothing, so it stays and the disk is told full."""
    shared, new = b"s" * 1000, b"n" * 500
    disk.add("old", shared)
    store = disk.hive("h")
    store.leases.pull("new", [hashlib.sha256(shared).hexdigest()])
    monkeypatch.setattr(Layout, "free", lambda _: 0)
    with pytest.raises(DiskFullError, match="do not fit"):
        store.make_room(len(new), ["m"])
    assert store.named("old") is not None
