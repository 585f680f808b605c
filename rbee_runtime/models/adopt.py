"""Takes a file of this host into the store: linked where that is safe, copied where not, hashed in both cases."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from rbee_runtime import durable
from rbee_runtime.errors import DiskFullError, ModelStoreError
from rbee_runtime.models.layout import BLOB_MODE, Layout, sentences
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.sources import RemoteFile
from rbee_runtime.models.sources.linking import closed, place
from rbee_runtime.protocol import ModelFile

_BLOCK = 4 * 1024 * 1024


class Adoption:
    """Takes minutes for a large model: call it from a thread. Files below `kept` folders are never copied.

    `make_room` is told how many bytes a copy takes, and raises DiskFullError if they do not fit.
    """

    def __init__(
        self,
        layout: Layout,
        progress: Progress,
        *,
        make_room: Callable[[int], None],
        kept: tuple[Path, ...] = (),
    ) -> None:
        self._layout = layout
        self._progress = progress
        self._make_room = make_room
        self._kept = tuple(folder.resolve() for folder in kept)

    def run(self, model: str, path: Path, wanted: RemoteFile) -> ModelFile:
        """Return the file once it is in the store, or raise ModelStoreError and leave nothing behind."""
        draft = self._layout.partial / f"draft-{os.getpid()}-{id(self):x}"
        with sentences(f"model {model}: cannot take in {path}"):
            try:
                file = self._taken_in(model, path, draft, wanted)
                draft.replace(self._layout.blob(file.sha256))
            finally:
                for left in (draft, _copy(draft)):
                    left.unlink(missing_ok=True)
            durable.sync_folder(self._layout.blobs)
        return file

    def _taken_in(self, model: str, path: Path, draft: Path, wanted: RemoteFile) -> ModelFile:
        size = path.stat().st_size
        if wanted.size is not None and size != wanted.size:
            raise ModelStoreError(
                f"model {model}: {path} has {size} bytes, the inventory says {wanted.size}; "
                "replace the file or correct the inventory"
            )
        linked = _placed(path, draft) or self._pointed_to(path, draft)
        digest = self._hashed(draft) if linked else self._copied(model, path, draft, size)
        if wanted.sha256 is not None and digest != wanted.sha256:
            raise ModelStoreError(
                f"model {model}: {path} has sha256 {digest}, the inventory says {wanted.sha256}; "
                "replace the file or correct the inventory"
            )
        return ModelFile(name=wanted.name, sha256=digest, size=size)

    def _pointed_to(self, path: Path, draft: Path) -> bool:
        """Point to a file of a cache that the settings name; whoever owns that cache keeps its content."""
        target = path.resolve()
        if not any(target.is_relative_to(folder) for folder in self._kept):
            return False
        shut = closed(target, self._layout.blobs)
        if shut is not None:
            group = self._layout.blobs.stat().st_gid
            raise ModelStoreError(
                f"workers, which are of group {group}, cannot open {target}: {shut} is closed to them; let the group "
                "read it (chgrp -R and chmod -R g+rX, and g+x on the folders above), or take the cache out of hf_caches"
            )
        draft.symlink_to(target)
        return True

    def _copied(self, model: str, path: Path, draft: Path, size: int) -> str:
        try:
            self._make_room(size)
        except DiskFullError as error:
            error.args = (f"model {model}: {error}",)
            raise
        copy = _copy(draft)
        with copy.open("xb") as target:
            digest = self._hashed(path, target.write)
            target.flush()
            os.fchmod(target.fileno(), BLOB_MODE)
            os.fsync(target.fileno())
        copy.replace(draft)
        return digest

    def _hashed(self, path: Path, write: Callable[[bytes], object] | None = None) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while block := source.read(_BLOCK):
                if self._progress.stopped:
                    raise ModelStoreError(f"{path} is not wanted any more")
                digest.update(block)
                if write is not None:
                    write(block)
                self._progress.add(len(block))
        return digest.hexdigest()


def _copy(draft: Path) -> Path:
    """Return the name of a draft that takes room of its own, as `room.copied` looks for it."""
    return draft.with_name(f"{draft.name}.copy")


def _placed(path: Path, draft: Path) -> bool:
    """Link or clone a file, which saves a copy of many GB; False where its bytes have to be copied."""
    try:
        place(path, draft)
    except ModelStoreError:
        return False
    return True
