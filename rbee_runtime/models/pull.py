"""Brings a whole model into the store: its files from wherever they are, then the look inside, then the manifest."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from rbee_runtime import logs
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelFormatError, ModelStoreError
from rbee_runtime.link import Link
from rbee_runtime.models import locks
from rbee_runtime.models.adopt import Adoption
from rbee_runtime.models.download import Download, Origin, Reader, begun
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.references import Source as Reference
from rbee_runtime.models.references import check_file_name, parse_source, shown, slug
from rbee_runtime.models.sources import Credentials, Listing, RemoteFile, Source, open_source
from rbee_runtime.models.sources.peer import Peer
from rbee_runtime.models.store import ModelStore, check_files
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec, encode
from rbee_runtime.states import FetchState

MAX_FILES = 2000
"""Above any real model; each is a lock, a request and a link."""

Opener = Callable[[Reference, StoreSettings, Credentials], Source]


class Inspector(Protocol):
    """Reads the headers of a model's files, or raises ModelFormatError."""

    def __call__(self, files: Sequence[tuple[str, Path]], *, allow_pickle: bool) -> object:
        """Return what is known of the model; it is kept beside its manifest."""
        ...


@dataclass
class _Pull:
    task: asyncio.Task[ModelReport]
    progress: Progress
    callers: int = 0


class Puller:
    """Pulls models into one store, each once however many ask: in this process, and in others on the same store.

    `link` reaches other hives. `clock` is monotonic seconds.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        credentials: Credentials | None = None,
        link: Link | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: locks.Sleep = asyncio.sleep,
        opener: Opener = open_source,
        inspect: Inspector | None = None,
    ) -> None:
        self._store = store
        self._credentials = credentials or Credentials()
        self._link = link
        self._clock = clock
        self._sleep = sleep
        self._opener = opener
        self._inspect = inspect or _inspect
        self._running: dict[bytes, _Pull] = {}

    async def pull(
        self, spec: ModelSpec, *, keep: Collection[str] = (), progress: Progress | None = None
    ) -> ModelReport:
        """Return the model once it is in the store, or raise ModelStoreError; `keep` are models not to remove for it.

        Callers of the same pull share it; it ends early only once all of them were cancelled.
        """
        key = encode(spec)
        found = self._running.get(key)
        if found is None:
            progress = progress or Progress(spec.name, self._clock)
            found = self._running[key] = _Pull(asyncio.create_task(self._pull(spec, progress, keep)), progress)
        found.callers += 1
        try:
            return await asyncio.shield(found.task)
        finally:
            found.callers -= 1
            if found.callers == 0:
                self._running.pop(key, None)
                await _ended(found)

    async def _pull(self, spec: ModelSpec, progress: Progress, keep: Collection[str]) -> ModelReport:
        layout = self._store.layout
        check_files(spec.files)
        found = await asyncio.to_thread(self._store.find, spec)
        if found is not None:
            return found
        await asyncio.to_thread(layout.prepare)
        async with locks.held(layout.locks / f"model-{slug(spec.name)}.lock", sleep=self._sleep):
            found = await asyncio.to_thread(self._store.find, spec)
            if found is not None:
                return found
            await asyncio.to_thread(self._store.check_is_ours, spec.name)
            progress.state = FetchState.FETCHING
            return await self._fetched(spec, progress, keep)

    async def _fetched(self, spec: ModelSpec, progress: Progress, keep: Collection[str]) -> ModelReport:
        reference = parse_source(spec.source)
        async with AsyncExitStack() as stack:
            source = self._opener(reference, self._store.settings, self._credentials)
            stack.push_async_callback(source.close)
            peers = self._peers(spec, stack)
            listing = await self._listing(spec, source, known=bool(peers))
            progress.total = sum(file.size or 0 for file in listing.files)
            copied = await asyncio.to_thread(self._copied, spec, listing)
            if copied:
                await asyncio.to_thread(self._store.make_room, copied, {*keep, spec.name})
            came = [await self._file(spec, file, source, peers, progress) for file in listing.files]
        return await asyncio.to_thread(self._commit, spec, listing.revision, came, progress)

    def _copied(self, spec: ModelSpec, listing: Listing) -> int:
        """Return the bytes that are still to come and need room."""
        missing = [file for file in listing.files if file.path is None and not self._is_here(file)]
        return sum(max(0, (file.size or 0) - begun(self._store.layout, spec.source, file)) for file in missing)

    def _peers(self, spec: ModelSpec, stack: AsyncExitStack) -> list[Reader]:
        if self._link is None:
            return []
        peers = [Peer(url, self._link) for url in spec.holders]
        for peer in peers:
            stack.push_async_callback(peer.close)
        return [peer.read for peer in peers]

    async def _listing(self, spec: ModelSpec, source: Source, *, known: bool) -> Listing:
        """Return the files by what the spec says of them, else by what the source says."""
        declared = [RemoteFile(file.name, file.size, file.sha256) for file in spec.files]
        if declared and all(self._is_here(file) for file in declared):
            return Listing(tuple(declared))
        try:
            listing = await source.list()
        except ModelStoreError as error:
            if not (declared and known):
                error.args = (f"model {spec.name}: {error}",)
                raise
            logs.warning("source_unreachable", model=spec.name, detail=error)
            return Listing(tuple(declared))
        _check(spec, listing)
        return listing if not declared else _declared(spec, declared, listing)

    def _is_here(self, file: RemoteFile) -> bool:
        wanted = ModelFile(name=file.name, sha256=file.sha256 or "", size=file.size or 0)
        return file.sha256 is not None and self._store.has(wanted)

    async def _file(
        self, spec: ModelSpec, file: RemoteFile, source: Source, peers: Sequence[Reader], progress: Progress
    ) -> ModelFile:
        store = self._store
        if await asyncio.to_thread(self._is_here, file):
            progress.held(file.size or 0)
            return ModelFile(name=file.name, sha256=file.sha256 or "", size=file.size or 0)
        if file.path is not None and (taken := await self._taken_in(spec, file, file.path, progress)):
            return taken
        origin = Origin(
            spec.source,
            read=lambda wanted, offset: source.read(wanted, offset=offset),
            again=partial(_again, source, file),
            peers=peers if file.sha256 is not None else (),
        )
        download = Download(
            store.layout, origin, progress, spare=store.settings.spare, clock=self._clock, sleep=self._sleep
        )
        return await download.run(file)

    async def _taken_in(self, spec: ModelSpec, file: RemoteFile, path: Path, progress: Progress) -> ModelFile | None:
        """Take in a file of this host; None if it is damaged and its source has it as well."""
        settings, before = self._store.settings, progress.done
        adoption = Adoption(self._store.layout, progress, spare=settings.spare, kept=settings.hf_caches)
        try:
            return await asyncio.to_thread(adoption.run, spec.name, path, file)
        except ModelStoreError as error:
            if isinstance(error, DiskFullError) or Path(file.locator) == path or settings.offline:
                raise
            logs.warning("cached_file_not_used", model=spec.name, detail=error)
            progress.add(before - progress.done)
            return None

    def _commit(self, spec: ModelSpec, revision: str, files: Sequence[ModelFile], progress: Progress) -> ModelReport:
        progress.state = FetchState.VERIFYING
        store = self._store
        named: list[tuple[str, Path]] = [(file.name, store.path_of(file)) for file in files]
        try:
            facts = self._inspect(named, allow_pickle=store.settings.allow_pickle)
        except ModelFormatError as error:
            raise ModelFormatError(f"model {spec.name}: {error}") from error
        size = sum(file.size for file in files)
        report = ModelReport(name=spec.name, size=size, files=tuple(files), source=spec.source, revision=revision)
        store.commit(report, facts)
        return store.find(spec) or report


def _inspect(files: Sequence[tuple[str, Path]], *, allow_pickle: bool) -> object:
    # Here, because reading headers is no business of a process that only looks at what is there.
    from rbee_runtime.models import formats  # noqa: PLC0415

    return formats.inspect(files, allow_pickle=allow_pickle)


def _check(spec: ModelSpec, listing: Listing) -> None:
    """Raise ModelStoreError unless what a source lists can be one model whose files can be told whole."""
    if len(listing.files) > MAX_FILES:
        raise ModelStoreError(f"model {spec.name} has {len(listing.files)} files; at most {MAX_FILES} are one model")
    for file in listing.files:
        check_file_name(file.name)
        if file.size is None and file.sha256 is None and not spec.files:
            raise ModelStoreError(f"model {spec.name}: its source says neither size nor hash of {file.name}")


async def _ended(pull: _Pull) -> None:
    """Stop a pull that nobody waits for, and let its threads come to an end."""
    pull.progress.stopped = True
    if not pull.task.done():
        pull.task.cancel()
        await asyncio.wait({pull.task})


def _declared(spec: ModelSpec, declared: Sequence[RemoteFile], listing: Listing) -> Listing:
    """Return where the source has the files that the spec declares, by their names, or the one by position."""
    there = {file.name: file for file in listing.files}
    if len(declared) == len(listing.files) == 1:
        there = {declared[0].name: listing.files[0]}
    missing = [file.name for file in declared if file.name not in there]
    if missing:
        raise ModelStoreError(
            f"model {spec.name}: {shown(spec.source)} has no file {missing[0]}; correct the inventory"
        )
    files = []
    for file in declared:
        found = there[file.name]
        if found.path is None and found.size not in {None, file.size}:
            raise ModelStoreError(
                f"model {spec.name}: {file.name} has {found.size} bytes at {shown(spec.source)}, the inventory says "
                f"{file.size}; correct the inventory"
            )
        files.append(replace(found, name=file.name, size=file.size, sha256=file.sha256))
    return Listing(tuple(files), listing.revision, listing.said)


async def _again(source: Source, file: RemoteFile) -> RemoteFile:
    """Return what the source has now under the name of `file`; the hash that was announced stays."""
    for now in (await source.list()).files:
        if now.name == file.name or now.locator == file.locator:
            return replace(
                now, name=file.name, sha256=file.sha256 or now.sha256, size=file.size if file.sha256 else now.size
            )
    raise ModelStoreError(f"{file.name} is not at its source any more")
