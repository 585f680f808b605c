"""Blobs of other hives: checked chunk by chunk, from hives of the own fleet only, and the source when they fail."""

import asyncio
import hashlib
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.link import Link, Role
from rbee_runtime.models import chunks
from rbee_runtime.models.chunks import CHUNK_BYTES, BlobServer
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import RemoteFile
from rbee_runtime.models.sources.peer import Peer, PeerError
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec
from tests.unit.certificates import issue_fleet

from .faulty_server import faulty_server
from .pulling import CONTENT, DIGEST, uninspected

BLOB = f"sha256-{DIGEST}"
SIZE = len(CONTENT)


class Hive(NamedTuple):
    """A peer: what its routes say; `content` may differ from what its table says."""

    blobs: BlobServer
    content: bytes
    asked: list[str]
    manifest: ModelReport | None = None


async def _serve(hive: Hive, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        hive.asked.append(head)
        if "/manifests/" in head:
            body, status = msgspec.json.encode(hive.manifest), "200 OK" if hive.manifest else "404 Not Found"
        elif "/chunks" in head:
            body, status = msgspec.json.encode(await hive.blobs.table(BLOB)), "200 OK"
        else:
            start = int(head.lower().partition("range: bytes=")[2].partition("-")[0])
            body, status = hive.content[start:], "206 Partial Content"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def running(
    root: Path,
    certificates: Path,
    *,
    role: Role = Role.HIVE,
    content: bytes = CONTENT,
    manifest: ModelReport | None = None,
) -> AsyncIterator[tuple[str, Hive]]:
    root.parent.mkdir(exist_ok=True)
    layout = Layout(root)
    layout.prepare()
    layout.blob(DIGEST).write_bytes(CONTENT)
    hive = Hive(BlobServer(layout), content, [], manifest)
    context = Link(role, "t", certificates).server_context()
    server = await asyncio.start_server(lambda r, w: _serve(hive, r, w), "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", hive
    finally:
        server.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    return issue_fleet(tmp_path / "link", "t")


def damaged(place: int) -> bytes:
    return CONTENT[:place] + bytes([CONTENT[place] ^ 1]) + CONTENT[place + 1 :]


@pytest.mark.parametrize(
    ("contents", "role", "from_source"),
    [
        ([CONTENT], Role.HIVE, 0),
        ([damaged(CHUNK_BYTES + 7), CONTENT], Role.HIVE, 0),
        ([damaged(CHUNK_BYTES + 7)], Role.HIVE, SIZE - CHUNK_BYTES),
        ([CONTENT[: CHUNK_BYTES + 9]], Role.HIVE, SIZE - CHUNK_BYTES),
        ([CONTENT + b"more"], Role.HIVE, 0),
        ([CONTENT], Role.WORKER, SIZE),
    ],
    ids=["good", "second hive", "damaged", "broken off", "too long", "not a hive"],
)
async def test_good_chunks_count_and_the_rest_comes_from_elsewhere(
    tmp_path: Path, certificates: Path, contents: list[bytes], role: Role, from_source: int
) -> None:
    """A hive that sends a bad chunk is dropped, its good ones stay, and the source sends only what is missing."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(faulty_server(CONTENT))
        hives = [
            await stack.enter_async_context(running(tmp_path / f"h{n}", certificates, role=role, content=content))
            for n, content in enumerate(contents)
        ]
        spec = ModelSpec(
            name="m",
            source=f"{origin.url()}#sha256={DIGEST}",
            files=(ModelFile(name="m.gguf", sha256=DIGEST, size=SIZE),),
            holders=tuple(url for url, _ in hives),
        )
        store = ModelStore(tmp_path / "mine", StoreSettings(spare=0, plain_http_hosts=("127.0.0.1",)))
        report = await Puller(store, link=Link(Role.HIVE, "t", certificates), inspect=uninspected).pull(spec)
        assert origin.sent == from_source
    assert store.path_of(report.files[0]).read_bytes() == CONTENT


async def test_other_hives_do_where_the_source_is_away(tmp_path: Path, certificates: Path) -> None:
    """With the source unreachable, a declared file comes from the hive that holds it."""
    async with running(tmp_path / "h", certificates) as (url, _):
        file = ModelFile(name="m.gguf", sha256=DIGEST, size=SIZE)
        spec = ModelSpec(name="m", source="https://localhost:9/m.gguf", files=(file,), holders=(url,))
        store = ModelStore(tmp_path / "mine", StoreSettings(spare=0))
        report = await Puller(store, link=Link(Role.HIVE, "t", certificates), inspect=uninspected).pull(spec)
    assert report.files == (file,)


COMMIT = "c" * 40
HELD = ModelReport(
    name="m", size=SIZE, files=(ModelFile(name="m.gguf", sha256=DIGEST, size=SIZE),), source="hf:o/r", revision=COMMIT
)


@pytest.mark.parametrize(
    ("source", "held", "content", "comes"),
    [
        ("hf:o/r", HELD, CONTENT, True),
        (f"hf:o/r@{COMMIT}", replace(HELD, source=f"hf:o/r@{COMMIT}"), CONTENT, True),
        ("hf:o/r", replace(HELD, source="hf:o/other"), CONTENT, False),
        ("hf:o/r", replace(HELD, name="n"), CONTENT, False),
        (f"hf:o/r@{COMMIT}", replace(HELD, source=f"hf:o/r@{COMMIT}", revision="d" * 40), CONTENT, False),
        ("hf:o/r", replace(HELD, files=(ModelFile(name="../m", sha256=DIGEST, size=SIZE),)), CONTENT, False),
        ("hf:o/r", None, CONTENT, False),
        ("hf:o/r", HELD, damaged(9), False),
    ],
    ids=["held", "same commit", "other source", "other name", "other commit", "hostile", "not held", "damaged"],
)
async def test_a_model_never_listed_comes_from_a_hive_that_has_it(
    tmp_path: Path, certificates: Path, source: str, held: ModelReport | None, content: bytes, comes: bool
) -> None:
    """With the hub away, a neighbour's list of the same name, source and commit is what the files are held to."""
    async with running(tmp_path / "h", certificates, manifest=held, content=content) as (url, _):
        spec = ModelSpec(name="m", source=source, holders=("https://127.0.0.1:9", url))
        settings = StoreSettings(spare=0, hf_endpoint="http://127.0.0.1:9", plain_http_hosts=("127.0.0.1",))
        store = ModelStore(tmp_path / "mine", settings)
        puller = Puller(store, link=Link(Role.HIVE, "t", certificates), inspect=uninspected, sleep=no_pause)
        if not comes:
            with pytest.raises(ModelStoreError, match=r"the hub at|source is away"):
                await puller.pull(spec)
            assert store.reports() == ()
            return
        report = await puller.pull(spec)
    assert (report.files, report.revision, report.source) == (HELD.files, COMMIT, source)
    assert store.path_of(report.files[0]).read_bytes() == CONTENT


async def test_offline_a_model_still_comes_from_a_hive(tmp_path: Path, certificates: Path) -> None:
    """What the settings keep from its source, of whatever kind that is, a neighbour may give."""
    for source in ("hf:o/r", "s3://bucket/m.gguf", "https://models.example/m.gguf"):
        root = tmp_path / source.partition(":")[0]
        async with running(root / "h", certificates, manifest=replace(HELD, source=source)) as (url, _):
            spec = ModelSpec(name="m", source=source, holders=(url,))
            store = ModelStore(root / "mine", StoreSettings(spare=0, offline=True))
            report = await Puller(store, link=Link(Role.HIVE, "t", certificates), inspect=uninspected).pull(spec)
        assert report.files == HELD.files


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


async def test_a_table_is_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who ask at once wait for one reading of the blob, and later ones find the table on the disk."""
    layout = Layout(tmp_path / "m")
    layout.prepare()
    layout.blob(DIGEST).write_bytes(CONTENT)
    made: list[Path] = []
    real = chunks.make

    def make(path: Path, *given: Any) -> Any:
        made.append(path)
        return real(path, *given)

    monkeypatch.setattr(chunks, "make", make)
    server = BlobServer(layout)
    tables = await asyncio.gather(*(server.table(BLOB) for _ in range(5)))
    assert await BlobServer(layout).table(BLOB) == tables[0]
    assert len(made) == 1
    assert tables[0].sha256s[0] == hashlib.sha256(CONTENT[:CHUNK_BYTES]).hexdigest()
    assert b"".join([block async for block in server.read(BLOB, start=5, end=5_000_000)]) == CONTENT[5:5_000_000]


async def test_a_damaged_blob_is_not_passed_on(tmp_path: Path) -> None:
    """A hive whose own copy has rotted says so instead of making a table of it."""
    layout = Layout(tmp_path / "m")
    layout.prepare()
    layout.blob(DIGEST).write_bytes(damaged(100))
    with pytest.raises(ModelStoreError, match="is damaged; have its model verified"):
        await BlobServer(layout).table(BLOB)


@pytest.mark.parametrize(
    "name", ["", "sha256-", "sha256-../../x", DIGEST, f"sha256-{DIGEST.upper()}", f"{BLOB}/..", f"{BLOB}\n"]
)
def test_only_blobs_are_served(tmp_path: Path, name: str) -> None:
    """Anything that is not the name of a blob is refused before the disk is touched."""
    with pytest.raises(ReferenceFormError, match="is not a blob"):
        BlobServer(Layout(tmp_path)).path(name)


async def test_a_hive_with_a_false_table_is_not_asked_twice(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that fit the table that came with them, and not the file: the second try is the source's."""
    false, path = damaged(100), tmp_path / "false"
    path.write_bytes(false)
    table = chunks.make(path, hashlib.sha256(false).hexdigest(), threading.Event())
    monkeypatch.setattr(chunks, "make", lambda *_: table)
    async with running(tmp_path / "h", certificates, content=false) as (url, hive), faulty_server(CONTENT) as origin:
        file = ModelFile(name="m.gguf", sha256=DIGEST, size=SIZE)
        source = f"{origin.url()}#sha256={DIGEST}"
        spec = ModelSpec(name="m", source=source, files=(file,), holders=(url,))
        store = ModelStore(tmp_path / "mine", StoreSettings(spare=0, plain_http_hosts=("127.0.0.1",)))
        report = await Puller(store, link=Link(Role.HIVE, "t", certificates), inspect=uninspected).pull(spec)
    assert store.path_of(report.files[0]).read_bytes() == CONTENT
    assert len([head for head in hive.asked if "/chunks" not in head]) == 1


class Endless(httpx.AsyncByteStream):
    """A blob's content, and then more for as long as somebody reads; `sent` is bytes."""

    sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.sent < 50 * SIZE:
            self.sent += SIZE
            yield CONTENT


async def test_a_hive_that_does_not_end_is_not_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the last chunk is not collected: the hive is dropped at the first byte too many."""
    path, stream = tmp_path / "m", Endless()
    path.write_bytes(CONTENT)
    table = msgspec.json.encode(chunks.make(path, DIGEST, threading.Event()))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/chunks"):
            return httpx.Response(200, content=table)
        return httpx.Response(206, stream=stream)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(Link, "client", lambda *_, **__: client)
    peer = Peer("https://h", Link(Role.HIVE, "t", tmp_path))
    with pytest.raises(PeerError, match="sends more than the"):
        assert b"".join([block async for block in peer.read(RemoteFile("m", SIZE, DIGEST), 0)]) == CONTENT
    await peer.close()
    assert stream.sent <= 2 * SIZE
