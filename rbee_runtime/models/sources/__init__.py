"""Where models come from: one protocol, and a table from scheme to the module that speaks it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models import references
from rbee_runtime.models.references import Scheme
from rbee_runtime.models.sources.credentials import Credentials

__all__ = [
    "Credentials",
    "Listing",
    "RangeRefusedError",
    "RemoteFile",
    "SlowError",
    "Source",
    "TransientError",
    "open_source",
]


class TransientError(ModelStoreError):
    """A connection broke, a server is busy or silent: worth another try, unlike any other ModelStoreError."""


class SlowError(TransientError):
    """So little came in so long that the try counts as one that got nothing."""


class RangeRefusedError(ModelStoreError):
    """The rest of a file cannot be had, because the server sends all of it or its content changed: start at 0."""


@dataclass(frozen=True)
class RemoteFile:
    """One file at its source.

    `name` is the relative path that an engine expects (see `references.check_file_name`), `size` bytes, `etag` what
    changes with the content, `locator` where the source finds it again: a URL, key or digest, private to the source.
    `path` is set where the content is a file of this host already: it is linked or copied instead of read. `whole` says
    that `read` checks the content at its end, so that without a sha256 only what was read to that end can be believed.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    etag: str | None = None
    locator: str = ""
    path: Path | None = None
    whole: bool = False


@dataclass(frozen=True)
class Listing:
    """The files of a model at its source; `revision` is a full commit or a digest ("" where there is none)."""

    files: tuple[RemoteFile, ...]
    revision: str = ""
    said: str = ""


class Source(Protocol):
    """A place that has one model. What fails is a ModelStoreError; `close` ends its connections."""

    async def list(self) -> Listing:
        """Return the files; the order is the one in which an engine wants them, so the first shard comes first."""
        ...

    def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        """Yield the content from `offset` bytes on, in blocks of any size; RangeRefusedError where it cannot."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


class _Opener(Protocol):
    def __call__(self, parsed: references.Source, *, settings: StoreSettings, credentials: Credentials) -> Source: ...


_MODULES: dict[Scheme, tuple[str, str]] = {
    Scheme.FILE: ("file", "FileSource"),
    Scheme.HTTPS: ("https", "HttpsSource"),
    Scheme.HTTP: ("https", "HttpsSource"),
    Scheme.HF: ("hf", "HfSource"),
    Scheme.S3: ("objects", "ObjectSource"),
    Scheme.GS: ("objects", "ObjectSource"),
    Scheme.AZ: ("objects", "ObjectSource"),
    Scheme.OCI: ("oci", "OciSource"),
}
"""By name, because the clients of some sources take a second to import and most hives never need them."""


def open_source(parsed: references.Source, settings: StoreSettings, credentials: Credentials | None = None) -> Source:
    """Return the source that a reference names, or raise ModelStoreError where there is nothing to fetch."""
    if parsed.scheme not in _MODULES:
        raise ModelStoreError(f"model source {str(parsed)!r} has no file to take in")
    module, name = _MODULES[parsed.scheme]
    opener = cast("_Opener", getattr(import_module(f"{__name__}.{module}"), name))
    return opener(parsed, settings=settings, credentials=credentials or Credentials())
