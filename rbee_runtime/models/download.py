"""Brings one file into the store: resumed, hashed while it comes, checked, and only then given its name."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from rbee_runtime import logs
from rbee_runtime.errors import DiskFullError, ModelStoreError, QuarantinedError
from rbee_runtime.models import locks
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.partial import Partial
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.sources import RangeRefusedError, RemoteFile, SlowError, TransientError
from rbee_runtime.protocol import ModelFile
from rbee_runtime.states import FetchState

BLOCK_BYTES = 2 * 1024 * 1024
"""Handed to hash and disk at a time: large enough to make threads worth it, small enough for caches."""

BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses between tries that got nothing; a try that got bytes starts the row anew."""

Reader = Callable[[RemoteFile, int], AsyncIterator[bytes]]
"""From file and offset to content."""


class _WrongContentError(ModelStoreError):
    """All of it came, and it is not what was announced."""


@dataclass(frozen=True)
class Origin:
    """Where one file comes from: other hives first, then its source. `again` asks the source what it has now."""

    name: str
    read: Reader
    again: Callable[[], Awaitable[RemoteFile]]
    peers: Sequence[Reader] = ()


class Download:
    """One file. `spare` bytes of the disk stay free."""

    def __init__(
        self,
        layout: Layout,
        origin: Origin,
        progress: Progress,
        *,
        spare: int,
        clock: Callable[[], float],
        sleep: locks.Sleep = asyncio.sleep,
    ) -> None:
        self._layout = layout
        self._threads = layout.threads.work
        self._origin = origin
        self._progress = progress
        self._spare = spare
        self._clock = clock
        self._sleep = sleep
        self._peers = list(origin.peers)

    async def run(self, file: RemoteFile) -> ModelFile:
        """Return the file once it is in the store; a ModelStoreError says why it is not, and what came is kept."""
        key = key_of(self._origin.name, file)
        async with locks.held(self._layout.locks / f"{key}.lock", self._threads, sleep=self._sleep):
            there = await self._threads.run(_there, self._layout, file)
            if there is not None:
                self._progress.held(there.size)
                return there
            partial = Partial(self._layout, key, floor=self._spare // 2, clock=self._clock)
            partial.stopped = lambda: self._progress.stopped
            try:
                await self._threads.run(partial.open, self._origin.name, file, self._progress.name)
                if partial.offset and _only_source_checks(file):
                    await self._threads.run(partial.restart, file)
                await self._threads.run(self._check_room, file, partial.offset)
                self._progress.held(partial.offset)
                return await self._until_right(partial, file)
            finally:
                await asyncio.shield(self._threads.run(partial.close_noted))

    def _check_room(self, file: RemoteFile, offset: int) -> None:
        needed, free = max(0, (file.size or 0) - offset), self._layout.free()
        if free < needed + self._spare:
            raise DiskFullError(
                f"{file.name} needs {needed} bytes and {self._spare} to spare, but {self._layout.root} has {free} "
                "free; free space there or set models_dir to a larger disk",
                needed=needed,
            )

    async def _until_right(self, partial: Partial, file: RemoteFile) -> ModelFile:
        anew = False
        while True:
            try:
                await self._until_all_came(partial, file)
                return await self._verified(partial, file)
            except (RangeRefusedError, _WrongContentError) as error:
                if anew:
                    raise await self._gave_up(partial, file, error) from error
                anew = True
                logs.warning("download_restarts", file=file.name, detail=error)
                file = await self._restarted(partial, file)

    async def _restarted(self, partial: Partial, file: RemoteFile) -> RemoteFile:
        now = await self._origin.again()
        if file.sha256 is not None and now.sha256 not in {None, file.sha256}:
            raise ModelStoreError(f"{file.name} is another file at its source than before; the model is asked for anew")
        self._progress.add(-partial.offset)
        # What they sent was no good, although each chunk fitted the table that they sent with it.
        self._peers.clear()
        await self._threads.run(partial.restart, now)
        return now

    async def _gave_up(self, partial: Partial, file: RemoteFile, error: ModelStoreError) -> ModelStoreError:
        if isinstance(error, _WrongContentError):
            self._progress.state = FetchState.VERIFYING
            aside = await self._threads.run(partial.set_aside)
            return QuarantinedError(f"{error}, twice; it is kept aside as {aside} and not served")
        return ModelStoreError(f"{file.name} cannot be fetched: {error}, twice; the server has to be mended")

    async def _until_all_came(self, partial: Partial, file: RemoteFile) -> None:
        failures = 0
        self._progress.state = FetchState.FETCHING
        while file.size is None or partial.offset < file.size:
            before = partial.offset
            if before and not (file.sha256 or file.etag):
                raise RangeRefusedError(f"{file.name} broke off, and its server sends no ETag to know the rest by")
            try:
                await self._stream(partial, file)
                if file.size is None or partial.offset >= file.size:
                    return
                raise TransientError(f"{file.name} ended after {partial.offset} of {file.size} bytes")
            except (RangeRefusedError, DiskFullError, _WrongContentError):
                raise
            except ModelStoreError as error:
                if _only_source_checks(file) and partial.offset == file.size:
                    kind = RangeRefusedError if isinstance(error, TransientError) else _WrongContentError
                    raise kind(str(error)) from error
                gained = partial.offset > before and not isinstance(error, SlowError)
                failures = 0 if gained else failures + 1
                hopeless = partial.offset == before and not isinstance(error, TransientError)
                if hopeless or failures > len(BACKOFF_SECONDS):
                    raise
                self._progress.detail = str(error)
                await self._sleep(BACKOFF_SECONDS[max(0, failures - 1)])

    async def _stream(self, partial: Partial, file: RemoteFile) -> None:
        """Append what the first peer that has it sends, else the source; a peer that fails is not asked again."""
        while self._peers:
            try:
                await self._append(partial, file, self._peers[0])
            except DiskFullError:
                raise
            except ModelStoreError as error:
                logs.warning("peer_dropped", file=file.name, detail=error)
                self._peers.pop(0)
                # A source refuses to send what is behind the end of a file, and all of it would come again.
                if partial.offset == file.size:
                    return
            else:
                return
        await self._append(partial, file, self._origin.read)

    async def _append(self, partial: Partial, file: RemoteFile, read: Reader) -> None:
        buffer, writing = bytearray(), asyncio.create_task(asyncio.sleep(0))
        try:
            async for block in read(file, partial.offset):
                buffer += block
                if len(buffer) >= BLOCK_BYTES:
                    await _over(writing)
                    writing = asyncio.create_task(self._write(partial, file, buffer))
                    buffer = bytearray()
        finally:
            # Also what came before a connection broke: it is not to be fetched twice.
            await _over(writing)
            await self._write(partial, file, buffer)

    async def _write(self, partial: Partial, file: RemoteFile, buffer: bytearray) -> None:
        if not buffer:
            return
        if file.size is not None and partial.offset + len(buffer) > file.size:
            raise _WrongContentError(f"{file.name} is longer than the {file.size} bytes that were announced")
        await self._threads.run(partial.append, buffer)
        self._progress.add(len(buffer))
        self._progress.detail = ""

    async def _verified(self, partial: Partial, file: RemoteFile) -> ModelFile:
        digest = partial.digest()
        if file.size is not None and partial.offset != file.size:
            raise _WrongContentError(f"{file.name} has {partial.offset} bytes, announced are {file.size}")
        if file.sha256 is not None and digest != file.sha256:
            raise _WrongContentError(f"{file.name} has sha256 {digest}, announced is {file.sha256}")
        came = ModelFile(name=file.name, sha256=digest, size=partial.offset)
        await self._threads.run(partial.keep, self._layout.blob(digest))
        return came


async def _over(task: asyncio.Task[None]) -> None:
    """Wait for a write; unlike `await task`, being cancelled does not abandon a thread in the middle of it."""
    await asyncio.wait({task})
    task.result()


def _only_source_checks(file: RemoteFile) -> bool:
    """Say whether the content is right can be told only by reading it from its source to the end."""
    return file.whole and file.sha256 is None


def _there(layout: Layout, file: RemoteFile) -> ModelFile | None:
    if file.sha256 is None:
        return None
    try:
        size = layout.blob(file.sha256).stat().st_size
    except OSError:
        return None
    return ModelFile(name=file.name, sha256=file.sha256, size=size) if file.size in {None, size} else None


def key_of(origin: str, file: RemoteFile) -> str:
    """Return the name of partial file and lock: by content where it is known, else by where it comes from."""
    if file.sha256 is not None:
        return f"sha256-{file.sha256}"
    place = f"{origin} {file.name}".encode()
    return f"from-{hashlib.sha256(place).hexdigest()}"
