"""A file on its way: what came so far, its running hash, and enough beside it to go on after a crash."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import msgspec

from rbee_runtime import durable
from rbee_runtime.errors import DiskFullError, ModelStoreError
from rbee_runtime.models.layout import BLOB_MODE, Layout, sentences
from rbee_runtime.models.sources import RemoteFile
from rbee_runtime.models.threads import Threads
from rbee_runtime.protocol import decode

SYNC_BYTES = 128 * 1024 * 1024
"""Written to the disk in the background so often: the rest of it is all that the end has to wait for."""

CHECK_BYTES = 256 * 1024 * 1024
CHECK_SECONDS = 1.0
"""Free space is looked at after that much or that long, whatever is first."""

_BLOCK = 4 * 1024 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a partial file. `synced` bytes are on the disk for sure; the rest only if `boot` is this one."""

    origin: str
    name: str
    model: str = ""
    etag: str | None = None
    size: int | None = None
    sha256: str | None = None
    synced: int = 0
    boot: str = ""


class Partial:
    """One partial file, open for appending. `append` hashes and writes at the same time; call it from a thread."""

    def __init__(self, layout: Layout, key: str, *, floor: int, clock: Callable[[], float]) -> None:
        self.path = layout.partial / f"{key}.part"
        self.offset = 0
        self._layout = layout
        self._beside = layout.partial / f"{key}.json"
        self._aside = layout.quarantine / key
        self._floor = floor
        self._clock = clock
        self._hash = hashlib.sha256()
        self._resume = Resume(origin="", name="")
        self._handle = -1
        self._threads = Threads(2, "model-partial")
        self._syncing: Future[None] | None = None
        self._sync_due = SYNC_BYTES
        self._checked = (0, clock())
        self._busy = threading.Lock()
        self._broken = self._closed = False
        self.stopped: Callable[[], bool] = lambda: False

    def open(self, origin: str, file: RemoteFile, model: str = "") -> None:
        """Open the file and hash what is there of the same content; start anew if it is another one."""
        wanted = Resume(
            origin=origin,
            name=file.name,
            model=model,
            etag=file.etag,
            size=file.size,
            sha256=file.sha256,
            boot=_boot(),
        )
        with self._busy:
            # Whoever was cancelled closes while this thread is still on its way here.
            if not self._closed:
                self._open(wanted)

    def _open(self, wanted: Resume) -> None:
        with sentences(f"cannot write {self.path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._handle = os.open(self.path, flags, BLOB_MODE)
            self._cut(self._usable(wanted))
            self._hash_what_is_there()
        self._resume = wanted
        self._note()

    def append(self, block: bytes | bytearray) -> None:
        """Add a block; DiskFullError when there is no room for it, and then what came before is still good."""
        with self._busy:
            if self._handle >= 0:
                self._append(block)

    def _append(self, block: bytes | bytearray) -> None:
        if self._broken:
            raise ModelStoreError(f"{self.path} cannot be written on; it is tried anew from what is on the disk")
        self._look_at_disk()
        hashing = self._threads.submit(self._hash.update, block)
        try:
            with sentences(f"cannot write {self.path}", needed=self._missing()):
                self._write(block)
        except ModelStoreError:
            # The hash has the block and the file has not: from here on they do not speak of the same content.
            self._broken = True
            hashing.result()
            self._rewind()
            raise
        hashing.result()
        self.offset += len(block)
        if self.offset >= self._sync_due and (self._syncing is None or self._syncing.done()):
            self._sync_due = self.offset + SYNC_BYTES
            with sentences(f"cannot write {self.path}", needed=self._missing()):
                self._check_synced()
            self._syncing = self._threads.submit(os.fdatasync, self._handle)

    def digest(self) -> str:
        """Return the sha256 of what is there."""
        return self._hash.hexdigest()

    def restart(self, file: RemoteFile) -> None:
        """Forget what came; `file` is what comes from now on."""
        with sentences(f"cannot write {self.path}"):
            self._cut(0)
        self._hash = hashlib.sha256()
        self._resume = msgspec.structs.replace(self._resume, etag=file.etag, size=file.size, sha256=file.sha256)
        self._note()

    def keep(self, blob: Path) -> None:
        """Make the content last and give it its name."""
        with sentences(f"cannot write {blob}", needed=self._missing()):
            os.fchmod(self._handle, BLOB_MODE)
            self._sync()
            self.close()
            self.path.replace(blob)
            durable.sync_folder(blob.parent)
            self._beside.unlink(missing_ok=True)

    def _sync(self) -> None:
        """Have all of it on the disk; where that fails nobody knows which part is missing, so that none is kept."""
        try:
            self._check_synced()
            os.fsync(self._handle)
        except OSError:
            self._cut(0)
            raise

    def _check_synced(self) -> None:
        # A failure is told once per open file, so the sync at the end would not hear of it again.
        if self._syncing is not None:
            try:
                self._syncing.result()
            except OSError:
                self._broken = True
                self._cut(0)
                raise

    def set_aside(self) -> Path:
        """Move wrong content out of the way and return where it is; only the last one per file is kept."""
        with sentences(f"cannot move {self.path} aside"):
            self.close()
            self.path.replace(self._aside)
            self._beside.unlink(missing_ok=True)
        return self._aside

    def close_noted(self) -> None:
        """Close the file, and make what came last for a later try."""
        self.close(note=True)

    def close(self, *, note: bool = False) -> None:
        """Close the file; with `note`, as `close_noted` does."""
        with self._busy:
            self._closed = True
            if self._syncing is not None:
                wait([self._syncing])
            handle, self._handle = self._handle, -1
            if handle < 0:
                return
            # A disk that is full now has at least what was noted at the start, which is good until the next boot.
            with contextlib.suppress(OSError, ModelStoreError):
                if note and self._resume.origin:
                    os.fdatasync(handle)
                    self._resume = msgspec.structs.replace(self._resume, synced=self.offset)
                    self._note()
            os.close(handle)

    def _usable(self, wanted: Resume) -> int:
        """Return how many bytes of the present file are a beginning of what is wanted."""
        try:
            found = decode(self._beside.read_bytes(), Resume)
        except (OSError, msgspec.MsgspecError):
            return 0
        if not _continues(found, wanted):
            return 0
        there = os.fstat(self._handle).st_size
        return there if found.boot == wanted.boot else min(there, found.synced)

    def _hash_what_is_there(self) -> None:
        os.lseek(self._handle, 0, os.SEEK_SET)
        while not self.stopped() and (block := os.read(self._handle, _BLOCK)):
            self._hash.update(block)
            self.offset += len(block)

    def _write(self, block: bytes | bytearray) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._handle, rest) :]

    def _cut(self, length: int) -> None:
        os.ftruncate(self._handle, length)
        os.lseek(self._handle, length, os.SEEK_SET)
        self.offset = 0 if length == 0 else self.offset

    def _rewind(self) -> None:
        """Leave only whole blocks, so that file and length agree; the next try hashes them anew."""
        with sentences(f"cannot write {self.path}"):
            os.ftruncate(self._handle, self.offset)

    def _missing(self) -> int:
        return max(0, (self._resume.size or 0) - self.offset)

    def _look_at_disk(self) -> None:
        offset, when = self._checked
        if self.offset - offset < CHECK_BYTES and self._clock() - when < CHECK_SECONDS:
            return
        self._checked = (self.offset, self._clock())
        free = self._layout.free()
        if free < self._floor:
            raise DiskFullError(
                f"{self._layout.root} has only {free} bytes free now; free space there, what came so far is kept",
                needed=self._missing(),
            )

    def _note(self) -> None:
        with sentences(f"cannot write {self._beside}", needed=self._missing()):
            draft = self._beside.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_bytes(msgspec.json.encode(self._resume))
            draft.replace(self._beside)


def _continues(found: Resume, wanted: Resume) -> bool:
    """Say whether what was begun is a beginning of what is wanted: by hash, else by validator, else nobody knows."""
    if wanted.sha256 is not None:
        return found.sha256 == wanted.sha256
    begun, now = ((r.origin, r.name, r.etag, r.size, r.sha256) for r in (found, wanted))
    return bool(wanted.etag) and begun == now


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
