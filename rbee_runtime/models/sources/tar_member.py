"""One file out of a tar stream, without unpacking anything: headers are read, bodies skipped, one body passed on.

Works block by block on what arrives, so that memory stays flat; no name of the archive ever becomes a path here.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from rbee_runtime.errors import ModelStoreError

FOLDER = "models"
MAX_MEMBERS = 200_000
"""Files in a layer; base images have some tens of thousands."""

MAX_HEADER = 1024 * 1024
"""Bytes of one extended header; real ones have a few hundred."""

MAX_SIZE = 1 << 44

_RECORD = 512
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
_LONG = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK})
_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_EXTENDED = _LONG | _PAX | {tarfile.XGLTYPE}
_PAX_RECORD = re.compile(rb"\d{1,7} (path|size)=([^\n]*)\n")


@dataclass(frozen=True)
class Member:
    """A file of the archive: its name without folders, and bytes."""

    name: str
    size: int


class TarWalk:
    """Finds the model file in a tar stream; feed it, and it gives the bytes of that file.

    `found` is set as soon as its header was read, `ended` after the archive's last record. Raises ModelStoreError for
    a damaged archive, a link or a device where the model should be, or a second model file.
    """

    def __init__(self, where: str) -> None:
        self.found: Member | None = None
        self.ended = False
        self._where = where
        self._buffer = bytearray()
        self._need = _RECORD
        self._extended: bytes | None = None
        self._said: dict[str, str] = {}
        self._passed = 0
        self._skipped = 0
        self._members = 0

    @property
    def whole(self) -> bool:
        """Say whether the model file was found and has been passed on to its last byte."""
        return self.found is not None and not self._passed

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Take in a block and yield what of it belongs to the model file."""
        view = memoryview(block)
        while view and not self.ended:
            if self._passed:
                taken, view = view[: self._passed], view[self._passed :]
                self._passed -= len(taken)
                yield bytes(taken)
            elif self._skipped:
                taken, view = view[: self._skipped], view[self._skipped :]
                self._skipped -= len(taken)
            else:
                view = self._gather(view)

    def _gather(self, view: memoryview) -> memoryview:
        """Collect the record, or the extended header, that comes next, and act on it when it is whole."""
        missing = self._need - len(self._buffer)
        self._buffer += view[:missing]
        if len(self._buffer) == self._need:
            record, self._buffer, self._need = bytes(self._buffer), bytearray(), _RECORD
            if self._extended is None:
                self._header(record)
            else:
                self._extend(self._extended, record)
        return view[missing:]

    def _header(self, record: bytes) -> None:
        if not any(record):
            self.ended = True
            return
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise ModelStoreError(f"{self._where} has more than {MAX_MEMBERS} files: it is not a model")
        try:
            info = tarfile.TarInfo.frombuf(record, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise ModelStoreError(f"{self._where} is not a tar archive, or is damaged: {error}") from error
        if info.type in _EXTENDED:
            self._announce(info)
        else:
            self._member(info)

    def _announce(self, info: tarfile.TarInfo) -> None:
        if not 0 < info.size <= MAX_HEADER:
            raise ModelStoreError(f"{self._where} has a header of {info.size} bytes; that is not a model")
        self._extended = info.type
        self._need = _rounded(info.size)

    def _extend(self, kind: bytes, body: bytes) -> None:
        self._extended = None
        if kind == tarfile.GNUTYPE_LONGNAME:
            self._said["path"] = body.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind in _PAX:
            pairs = {key.decode(): value.decode("utf-8", "surrogateescape") for key, value in _PAX_RECORD.findall(body)}
            self._said |= pairs

    def _member(self, info: tarfile.TarInfo) -> None:
        said, self._said = self._said, {}
        path, size = said.get("path", info.name), _size(said.get("size"), info.size)
        if not 0 <= size <= MAX_SIZE:
            raise ModelStoreError(f"{self._where} is damaged: a file of {size} bytes")
        self._skipped = _rounded(size) if info.type in _FILES else 0
        if self._is_model(path, info.type):
            self.found = Member(PurePosixPath(path).name, size)
            self._passed, self._skipped = size, _rounded(size) - size

    def _is_model(self, path: str, kind: bytes) -> bool:
        """Say whether this is the one file under the folder, and raise ModelStoreError for what may not be there."""
        parts = [part for part in PurePosixPath(path).parts if part not in {"/", "."}]
        if len(parts) < 2 or parts[0] != FOLDER or kind == tarfile.DIRTYPE:
            return False
        if ".." in parts or kind not in _FILES or parts[-1].startswith(".wh."):
            raise ModelStoreError(f"{self._where} has {path[:200]!r}, which is a link, a device or a path out of it")
        if self.found is not None:
            raise ModelStoreError(f"{self._where} has several files under {FOLDER}/; push them as an artefact instead")
        return True


def _rounded(size: int) -> int:
    return -(-size // _RECORD) * _RECORD


def _size(said: str | None, size: int) -> int:
    return int(said) if said is not None and said.isascii() and said.isdigit() and len(said) <= 18 else size
