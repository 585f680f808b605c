"""A store whose disk fails, whose neighbours are careless, or that somebody else has filled."""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models import chunks
from rbee_runtime.models.chunks import BlobServer, ChunkTable
from rbee_runtime.models.collect import IDLE_SECONDS
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.sources.file import MAX_ENTRIES, _members
from rbee_runtime.models.sources.linking import _is_open
from rbee_runtime.models.store import ModelStore
from rbee_runtime.models.sweep import ORPHAN_SECONDS, sweep
from rbee_runtime.protocol import ModelFile, ModelReport, encode
from tests.unit.hive.waiting import until

from .faulty_server import Fault, faulty_server
from .pulling import CONTENT, DIGEST, Pulling, spec

SIZE = len(CONTENT)
LATER = 2e9


@pytest.fixture
def pulling(tmp_path: Path) -> Pulling:
    return Pulling(tmp_path / "models")


def seeded(root: Path, *names: str) -> ModelStore:
    """Fill a store as the deploy does: blobs and manifests, and nothing else."""
    for name in names:
        content = name.encode()
        file = ModelFile(name="m.gguf", sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for path, data in (
            (Layout(root).blob(file.sha256), content),
            (Layout(root).manifest(name), encode(ModelReport(name=name, size=file.size, files=(file,)))),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return ModelStore(root, StoreSettings(spare=0, quota=1), clock=lambda: LATER)


@pytest.mark.parametrize("damage", ["garbage", "an odd byte", "folder away"])
def test_a_manifest_that_cannot_be_read_keeps_its_blobs(tmp_path: Path, damage: str) -> None:
    """A network disk that shows blobs and hides manifests for a moment costs no model."""
    store = seeded(tmp_path / "models", "a", "b")
    store.layout.prepare()
    manifest = store.layout.manifest("a")
    content = {"garbage": b"?", "an odd byte": b'{"name": "\xff"}'}.get(damage)
    manifest.write_bytes(content) if content else store.layout.manifests.rename(tmp_path / "away")
    assert sweep(store.layout, store.manifests(), now=LATER + ORPHAN_SECONDS) == ()
    assert len(list(store.layout.blobs.iterdir())) == 2


def test_use_of_a_ready_made_store_is_noted_for_neighbours(tmp_path: Path) -> None:
    """What a hive uses of a store that only the deploy has written is not old to another hive on it."""
    store = seeded(tmp_path / "models", "used", "idle")
    store.touch(["used"])
    neighbour = ModelStore(tmp_path / "models", StoreSettings(quota=1), clock=lambda: LATER + IDLE_SECONDS - 1)
    assert neighbour.collect(()) == ("idle",)


def test_without_its_pins_nothing_is_collected(tmp_path: Path) -> None:
    """A list of pins that cannot be read neither counts as empty nor is overwritten by the next pin."""
    store = seeded(tmp_path / "models", "a")
    store.layout.pins.write_bytes(b"?")
    for act in (lambda: store.collect(()), lambda: store.make_room(1, ()), lambda: store.pin("a", pinned=True)):
        with pytest.raises(ModelStoreError, match=r"pins\.json"):
            act()
    assert (len(store.reports()), store.layout.pins.read_bytes()) == (1, b"?")


def test_a_damaged_file_of_a_ready_made_store_goes_to_quarantine(tmp_path: Path) -> None:
    """Also where no folder for it was ever made."""
    store = seeded(tmp_path / "models", "a")
    store.path_of(store.reports()[0].files[0]).write_bytes(b"b")
    assert store.verify("a") == ("m.gguf",)
    assert (store.reports(), len(list(store.layout.quarantine.iterdir()))) == ((), 1)


def test_the_engine_gets_the_file_that_the_facts_name(tmp_path: Path) -> None:
    """Of several GGUF files not the first by name but the model's main one, where that is known."""
    layout, store = Layout(tmp_path), ModelStore(tmp_path)
    files = tuple(
        ModelFile(name=f"{name}.gguf", sha256=sign * 64, size=1) for name, sign in (("a-lora", "a"), ("z", "b"))
    )
    report = ModelReport(name="m", size=2, files=files)
    layout.prepare()
    facts = ModelFacts(
        format=Format.GGUF, main="z.gguf", architecture="x", parameters=1, quantisation="", weights_bytes=1
    )
    store.commit(report, facts)
    assert store.engine_path(report).name == "z.gguf"
    store.commit(report, {})
    assert store.engine_path(report).name == "a-lora.gguf"


@pytest.mark.parametrize(
    ("mode", "group", "folder", "links"),
    [(0o600, 7, 7, False), (0o640, 7, 7, True), (0o640, 8, 7, False), (0o644, 8, 7, True), (0o600, 8, -1, True)],
)
def test_only_a_file_that_workers_may_read_is_linked(mode: int, group: int, folder: int, links: bool) -> None:
    """A link keeps its mode; where the folder is for our own group alone, workers run as we do."""
    owned = os.getegid() if folder == -1 else folder + os.getegid() + 1
    file = os.stat_result((mode, 0, 0, 0, 0, group + os.getegid() + 1, 0, 0, 0, 0))
    assert _is_open(file, os.stat_result((0o750, 0, 0, 0, 0, owned, 0, 0, 0, 0))) is links


@pytest.mark.parametrize("sha256", [DIGEST, ""], ids=["hash known", "hash unknown"])
async def test_a_disk_error_never_shifts_content(
    pulling: Pulling, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    """A write that fails once ends the try; the next one has the right content under the right name."""
    real, calls = os.write, [0]

    def write(handle: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, data)

    monkeypatch.setattr("rbee_runtime.models.partial.os.write", write)
    async with faulty_server(CONTENT) as server:
        with pytest.raises(ModelStoreError, match="cannot be written"):
            await pulling.puller().pull(spec(server, sha256))
        assert pulling.visible() == []
        report = await pulling.puller().pull(spec(server, sha256))
    assert report.files[0].sha256 == DIGEST
    assert pulling.store.path_of(report.files[0]).read_bytes() == CONTENT


async def test_a_sync_that_failed_in_the_background_is_not_forgotten(
    pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of lost data once; the blob does not become visible, and nothing of it is gone on with."""

    def lost(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("rbee_runtime.models.partial.SYNC_BYTES", SIZE // 4)
    monkeypatch.setattr("rbee_runtime.models.partial.os.fdatasync", lost)
    async with faulty_server(CONTENT) as server:
        with pytest.raises(ModelStoreError, match="cannot"):
            await pulling.puller().pull(spec(server))
    assert pulling.visible() == []
    assert [path.stat().st_size for path in (pulling.root / "partial").glob("*.part")] == [0]


async def test_without_hash_and_etag_the_rest_is_not_joined_to_the_beginning(pulling: Pulling) -> None:
    """Nothing says that the rest is of the same content, so the file comes anew."""
    other = bytes(reversed(CONTENT))
    async with faulty_server(CONTENT, Fault(cut=SIZE // 2), Fault(content=other), Fault(content=other)) as server:
        server.etag = ""
        report = await pulling.puller().pull(spec(server, ""))
    assert report.files[0].sha256 == hashlib.sha256(other).hexdigest()


async def test_what_came_before_needs_no_room_again(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that was nearly done goes on with room for the rest only."""
    async with faulty_server(CONTENT, Fault(cut=SIZE * 9 // 10), Fault(status=404)) as server:
        with pytest.raises(ModelStoreError, match="404"):
            await pulling.puller().pull(spec(server))
        server.faults = [Fault()]
        monkeypatch.setattr(Layout, "free", lambda _: SIZE // 5)
        await pulling.puller().pull(spec(server))
    assert server.gets == 3


async def test_tables_of_chunks_leave_threads_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blobs are asked for, two are read at a time, and other work of the store goes on meanwhile."""
    names = [f"m{number}" for number in range(6)]
    store = seeded(tmp_path / "models", *names)
    store.layout.prepare()
    busy, gate = [], threading.Event()

    def make(path: Path, *_: object) -> ChunkTable:
        busy.append(path)
        gate.wait(20)
        return ChunkTable(size=1, chunk=1, sha256s=())

    monkeypatch.setattr(chunks, "make", make)
    server = BlobServer(store.layout)
    blobs = [f"sha256-{hashlib.sha256(name.encode()).hexdigest()}" for name in names]
    asked = [asyncio.create_task(server.table(blob)) for blob in blobs]
    await until(lambda: len(busy) == 2)
    assert len(await store.layout.threads.work.run(store.reports)) == 6
    assert (await asyncio.wait(asked, timeout=0.05))[0] == set()
    assert len(busy) == 2
    gate.set()
    assert (len(await asyncio.gather(*asked)), len(busy)) == (6, 6)


@pytest.mark.parametrize("what", ["verify", "table"])
async def test_a_file_that_is_hashed_is_let_go_when_the_hive_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between two blocks, not after the last of a hundred gigabytes; and a verify that did not end judges nothing."""
    store = seeded(tmp_path / "models", "a")
    report, read = store.reports()[0], []

    class Endless:
        def update(self, _: bytes) -> None:
            read.append(1)
            store.layout.threads.halted.set()

        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr("rbee_runtime.models.digests.BLOCK_BYTES", 1)
    store.path_of(report.files[0]).write_bytes(b"abc")
    store.layout.manifest("a").write_bytes(encode(replace(report, files=(replace(report.files[0], size=3),))))
    monkeypatch.setattr(hashlib, "sha256", lambda *_: Endless())
    blob = f"sha256-{report.files[0].sha256}"
    with pytest.raises(ModelStoreError, match="because the hive ends"):
        store.verify("a") if what == "verify" else await BlobServer(store.layout).table(blob)
    assert (len(read), store.path_of(report.files[0]).exists()) == (1, True)


def test_a_whole_disk_is_not_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking stops soon after there is more than a model can have, whatever the rest may be."""
    seen = [0]

    def endless(*_: object) -> Iterator[Path]:
        while True:
            seen[0] += 1
            yield tmp_path / f".{seen[0]}"

    monkeypatch.setattr(Path, "rglob", endless)
    with pytest.raises(ModelStoreError, match="is not the folder of one model"):
        _members(tmp_path)
    assert seen[0] <= MAX_ENTRIES + 2
