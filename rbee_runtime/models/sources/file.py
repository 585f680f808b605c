"""A model that is a file or a folder of this host, for example on a mounted disk or in an image."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import references
from rbee_runtime.models.sources import Listing, RemoteFile
from rbee_runtime.models.sources.credentials import Credentials
from rbee_runtime.models.threads import SOURCES

MAX_FILES = 2000
"""Above any real model; whoever names a whole disk by mistake is told so."""

MAX_ENTRIES = 10 * MAX_FILES
"""With folders and hidden files: where to stop looking at a whole disk."""

_ODD = re.compile(r"[^A-Za-z0-9._+=,-]")
_BLOCK = 4 * 1024 * 1024
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class FileSource:
    """`file:/absolute/path`: one file, or every file of a folder whose name does not start with a dot."""

    def __init__(
        self,
        parsed: references.Source,
        *,
        settings: StoreSettings,  # noqa: ARG002 - every source is given them
        credentials: Credentials,  # noqa: ARG002 - as above
    ) -> None:
        self._path = Path(parsed.rest)

    async def list(self) -> Listing:
        """Return the file, its further shards, or what is in the folder."""
        return await SOURCES.run(self._list)

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        """Yield the content from `offset` on."""
        path = file.path or Path(file.locator)
        try:
            with path.open("rb") as opened:
                opened.seek(offset)
                while block := await SOURCES.run(opened.read, _BLOCK):
                    yield block
        except OSError as error:
            raise ModelStoreError(f"cannot read {path}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is kept open."""

    def _list(self) -> Listing:
        try:
            files = tuple(_file(path, name) for path, name in _members(self._path))
        except OSError as error:
            raise ModelStoreError(f"cannot read {self._path}: {error.strerror}") from error
        except ReferenceFormError as error:
            raise ModelStoreError(f"{self._path}: {error}; rename it") from error
        if not files:
            raise ModelStoreError(f"the folder {self._path} has no files; put the model there or correct its source")
        return Listing(files)


def _members(root: Path) -> list[tuple[Path, str]]:
    if root.is_file():
        return [(path, _ODD.sub("_", path.name).lstrip(".-") or "model") for path in shards(root)]
    if not root.is_dir():
        raise ModelStoreError(f"{root} is not a file here; run the deploy to pre-seed it, or put it there")
    found: list[tuple[Path, str]] = []
    for number, path in enumerate(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found.append((path, name.as_posix()))
        if len(found) > MAX_FILES or number > MAX_ENTRIES:
            raise ModelStoreError(f"{root} has more than {MAX_FILES} files: it is not the folder of one model")
    return sorted(found)


def _file(path: Path, name: str) -> RemoteFile:
    stat = path.stat()
    etag = f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
    return RemoteFile(references.check_file_name(name), stat.st_size, etag=etag, locator=str(path), path=path)


def shards(path: Path) -> list[Path]:
    """Return the parts of a split GGUF model, the first one first, or the file itself."""
    found = _SHARD.search(path.name)
    if found is None:
        return [path]
    stem = path.name[: found.start()]
    parts = [path.with_name(f"{stem}-{number:05}-of-{found[2]}.gguf") for number in range(1, int(found[2]) + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelStoreError(f"{path} is one part of a split model, and {missing[0]} is not beside it")
    return parts
