"""Brings a whole model into the store: its files from wherever they are, then the look inside, then the manifest."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from rbee_runtime import logs
from rbee_runtime.brief import few
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelFormatError, ModelStoreError, ReferenceFormError
from rbee_runtime.link import Link
from rbee_runtime.models import locks
from rbee_runtime.models.adopt import Adoption
from rbee_runtime.models.download import Download, Origin, Reader, key_of
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.references import Scheme, check_file_name, identity, parse_source, shown, slug
from rbee_runtime.models.references import Source as Reference
from rbee_runtime.models.sources import Credentials, Listing, RemoteFile, Source, TransientError, open_source
from rbee_runtime.models.sources.peer import Peer
from rbee_runtime.models.store import ModelStore, check_files
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec, encode
from rbee_runtime.states import FetchState

MAX_NAMED = 3
MAX_FILES = 2000
"""Above any real model; each is a lock, a request and a link."""

Opener = Callable[[Reference, StoreSettings, Credentials], Source]


class Inspector(Protocol):
    """Reads the headers of a model's files, or raises ModelFormatError."""

    def __call__(self, files: Sequence[tuple[str, Path]], *, allow_pickle: bool) -> object:
        """Return what is known of the model; it is kept beside its manifest."""
        ...


class _Read(Protocol):
    def __call__(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True)
class _Places:
    """Where the files of one model can be read, and who says what the source has now."""

    read: _Read
    again: Callable[[RemoteFile], Awaitable[RemoteFile]]
    peers: Sequence[Reader]
    make_room: Callable[[Mapping[str, int]], None]


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
        self._threads = store.layout.threads.work
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
        found = await self._threads.run(self._store.find, spec)
        if found is not None:
            return found
        await self._threads.run(layout.prepare)
        async with locks.held(layout.locks / f"model-{slug(spec.name)}.lock", self._threads, sleep=self._sleep):
            found = await self._threads.run(self._store.find, spec)
            if found is not None:
                return found
            await self._threads.run(self._store.check_is_ours, spec.name)
            progress.state = FetchState.FETCHING
            return await self._fetched(spec, progress, keep)

    async def _fetched(self, spec: ModelSpec, progress: Progress, keep: Collection[str]) -> ModelReport:
        reference = parse_source(spec.source)
        async with AsyncExitStack() as stack:
            source = self._opened(reference)
            stack.push_async_callback(source.close)
            peers = self._peers(spec, stack)
            listing = await self._listing(spec, source, peers)
            progress.total = sum(file.size or 0 for file in listing.files)
            blobs = [file.sha256 for file in listing.files if file.sha256 is not None]
            self._store.claims.begin(spec.name)
            stack.callback(self._store.claims.drop, spec.name)
            stack.callback(self._store.leases.paused, spec.name)
            await self._lease(spec.name, blobs)
            copied = await self._threads.run(self._copied, spec, listing)
            make_room = partial(self._store.reserve, spec.name, keep={*keep, spec.name})
            await self._threads.run(make_room, copied)
            read = source.read if not listing.said else _away(listing.said)
            places = _Places(read, partial(_again, source), [peer.read for peer in peers], make_room)
            came: list[ModelFile] = []
            for file in listing.files:
                came.append(await self._file(spec, file, places, progress))
                if file.sha256 is None:
                    self._store.claims.settle(spec.name, key_of(identity(spec.source), file), came[-1])
                    # Its hash is known only now; the rest of a large model may take days.
                    await self._lease(spec.name, [*blobs, *(each.sha256 for each in came)])
            report = await self._threads.run(self._commit, spec, listing.revision, came, progress)
            await self._threads.run(self._store.leases.pulled, spec.name)
            return report

    async def _lease(self, name: str, blobs: Sequence[str]) -> None:
        taking = asyncio.ensure_future(self._threads.run(self._store.leases.pull, name, blobs))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            # A thread that is at it would take the lease after it was given up, and renew it for ever.
            await asyncio.wait({taking})
            raise

    def _opened(self, reference: Reference) -> Source:
        try:
            return self._opener(reference, self._store.settings, self._credentials)
        except ModelStoreError as error:
            # Such as one that `offline` forbids: other hives may have the model.
            return _Unopened(error)

    def _copied(self, spec: ModelSpec, listing: Listing) -> dict[str, int]:
        """Return the files that are still to come and need room, with their bytes."""
        missing = [file for file in listing.files if file.path is None and not self._is_here(file)]
        return {key_of(identity(spec.source), file): file.size or 0 for file in missing}

    def _peers(self, spec: ModelSpec, stack: AsyncExitStack) -> list[Peer]:
        if self._link is None:
            return []
        peers = [Peer(url, self._link) for url in spec.holders]
        for peer in peers:
            stack.push_async_callback(peer.close)
        return peers

    async def _listing(self, spec: ModelSpec, source: Source, peers: Sequence[Peer]) -> Listing:
        """Return the files by what the spec says of them, else the source, else a hive that has the model.

        `said` is why the source is away, "" if it is not.
        """
        declared = [RemoteFile(file.name, file.size, file.sha256) for file in spec.files]
        if declared and all(self._is_here(file) for file in declared):
            return Listing(tuple(declared))
        try:
            listing = await source.list()
        except ModelStoreError as error:
            held = Listing(tuple(declared)) if declared and peers else await self._held_elsewhere(spec, peers)
            said = self._lost(spec) or str(error)
            if held is None:
                error.args = (f"model {spec.name}: {said}",)
                raise
            logs.warning("source_unreachable", model=spec.name, detail=error)
            return replace(held, said=said)
        _check(spec, listing)
        return listing if not declared else _declared(spec, declared, listing)

    def _lost(self, spec: ModelSpec) -> str:
        """Return what is missing of a model that a deploy puts here, "" for any other.

        The `file:` source of one whose files are declared is a path of the operator's machine, which says nothing here.
        """
        if not spec.files or parse_source(spec.source).scheme is not Scheme.FILE:
            return ""
        missing = [file for file in spec.files if not self._store.has(file)]
        names = few([f"{file.name} (sha256-{file.sha256[:12]}…)" for file in missing], MAX_NAMED)
        gone = f"{'is' if len(missing) == 1 else 'are'} gone from the model store {self._store.layout.root}"
        return f"{names} {gone} of this host; run the deploy again, which puts the files of this model there"

    async def _held_elsewhere(self, spec: ModelSpec, peers: Sequence[Peer]) -> Listing | None:
        """Return the files that the first hive which has this model says are it, each with the hash to hold it to."""
        for peer in peers:
            try:
                report = await peer.manifest(spec)
                check_files(report.files)
                files = tuple(RemoteFile(file.name, file.size, file.sha256) for file in report.files)
                _check(spec, Listing(files))
            except (ModelStoreError, ReferenceFormError) as error:
                logs.warning("peer_has_no_model", model=spec.name, detail=error)
            else:
                return Listing(files, report.revision)
        return None

    def _is_here(self, file: RemoteFile) -> bool:
        wanted = ModelFile(name=file.name, sha256=file.sha256 or "", size=file.size or 0)
        return file.sha256 is not None and self._store.has(wanted)

    async def _file(self, spec: ModelSpec, file: RemoteFile, places: "_Places", progress: Progress) -> ModelFile:
        store = self._store
        if await self._threads.run(self._is_here, file):
            progress.held(file.size or 0)
            return ModelFile(name=file.name, sha256=file.sha256 or "", size=file.size or 0)
        if file.path is not None and (taken := await self._taken_in(spec, file, places.make_room, progress)):
            return taken
        origin = Origin(
            identity(spec.source),
            read=lambda wanted, offset: places.read(wanted, offset=offset),
            again=partial(places.again, file),
            peers=places.peers if file.sha256 is not None else (),
        )
        download = Download(
            store.layout, origin, progress, spare=store.settings.spare, clock=self._clock, sleep=self._sleep
        )
        return await download.run(file)

    async def _taken_in(
        self, spec: ModelSpec, file: RemoteFile, make_room: Callable[[Mapping[str, int]], None], progress: Progress
    ) -> ModelFile | None:
        """Take in a file of this host; None if it is damaged and its source has it as well."""
        path, settings, before = file.path or Path(file.locator), self._store.settings, progress.done
        key = key_of(identity(spec.source), file)
        adoption = Adoption(
            self._store.layout, progress, make_room=lambda size: make_room({key: size}), kept=settings.hf_caches
        )
        try:
            return await self._threads.run(adoption.run, spec.name, path, file)
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
        source = identity(spec.source)
        report = ModelReport(name=spec.name, size=size, files=tuple(files), source=source, revision=revision)
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


class _Unopened:
    """A source that may not or cannot be asked."""

    def __init__(self, error: ModelStoreError) -> None:
        self._error = error

    async def list(self) -> Listing:
        raise self._error

    def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        return _away(str(self._error))(file, offset=offset)

    async def close(self) -> None: ...


def _away(said: str) -> _Read:
    """Return what stands for a source that gave no list: without one nobody knows where it has a file."""

    async def read(file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        raise TransientError(
            f"{file.name} comes from no other hive from byte {offset} on, and its source is away: {said}"
        )
        yield b""

    return read


async def _again(source: Source, file: RemoteFile) -> RemoteFile:
    """Return what the source has now under the name of `file`; the hash that was announced stays."""
    for now in (await source.list()).files:
        if now.name == file.name or now.locator == file.locator:
            return replace(
                now, name=file.name, sha256=file.sha256 or now.sha256, size=file.size if file.sha256 else now.size
            )
    raise ModelStoreError(f"{file.name} is not at its source any more")
