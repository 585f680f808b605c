"""Where things lie in a model store, and how its folders come to be.

blobs/sha256-<hex>      content, named by its own hash
manifests/<slug>.json   one model (`ModelReport`), written last: what has one is complete
facts/<slug>.json       what its header says
views/<slug>/<name>     links to blobs, for engines that want names and folders
partial/, quarantine/   what is still coming, and what turned out wrong
chunks/<blob>.json      hashes of its parts, for other hives
locks/
pins*.json              see `pins.py`
uses/<slug>             when it was last used; <slug>.<hive>: a hive's lease on it (see `leases.py`)
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbee_runtime.errors import DiskFullError, ModelStoreError
from rbee_runtime.models.references import check_name, slug
from rbee_runtime.models.threads import StoreThreads

BLOB_MODE = 0o640
"""The folder's group (rbee-models, setgid) may read."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Layout:
    """Paths below one models folder; makes sub-folders when something is to be written.

    Its disk may hang, so that whoever has an event loop goes to it through `threads`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.threads = StoreThreads()
        self.blobs = root / "blobs"
        self.manifests = root / "manifests"
        self.facts = root / "facts"
        self.views = root / "views"
        self.partial = root / "partial"
        self.quarantine = root / "quarantine"
        self.chunks = root / "chunks"
        self.locks = root / "locks"
        self.uses = root / "uses"
        self.pins = root / "pins.json"
        self.pins_asked = root / "pins-inventory.json"

    def blob(self, sha256: str) -> Path:
        """Return where the content with this hash is."""
        return self.blobs / f"sha256-{sha256}"

    def manifest(self, name: str) -> Path:
        """Return the manifest of a model."""
        return self.manifests / f"{slug(check_name(name))}.json"

    def view(self, name: str) -> Path:
        """Return the folder with a model's files under their names."""
        return self.views / slug(check_name(name))

    def prepare(self) -> None:
        """Make what is missing, or raise ModelStoreError saying what the models folder lacks."""
        if not self.root.parent.is_dir():
            raise ModelStoreError(
                f"the folder of models_dir, {self.root.parent}, is not there; mount the disk or correct models_dir"
            )
        with sentences(f"cannot use the models folder {self.root}"):
            self._make_root()
            for folder in (self.blobs, self.manifests, self.facts, self.views):
                folder.mkdir(mode=0o750, exist_ok=True)
            for folder in (self.partial, self.quarantine, self.chunks, self.locks, self.uses):
                folder.mkdir(mode=0o700, exist_ok=True)

    def _make_root(self) -> None:
        try:
            self.root.mkdir(mode=0o750, exist_ok=True)
        except OSError as error:
            if error.errno not in _FORBIDDEN or self.root.exists():
                raise
            # The hive may write into this folder only, so that the errno is the one of the folder above.
            said = "it is gone; run the deploy again, which makes it, or mount its disk"
            raise ModelStoreError(f"cannot use the models folder {self.root}: {said}") from error

    def free(self) -> int:
        """Return the bytes that are free on the model disk."""
        with sentences(f"cannot look at the models folder {self.root}"):
            stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize


@contextmanager
def sentences(what: str, *, needed: int = 0) -> Iterator[None]:
    """Turn an OSError into one sentence that starts with `what`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(f"{what}: the model disk is full; free space there", needed=needed) from error
        hint = {
            # A folder that is made anew is no longer the one that the running hive's unit was given for writing.
            errno.EROFS: "the disk is mounted read-only; mount it writable, or restart rbee-hive if the folder is new",
            errno.EACCES: "permission denied; give the folder to the user that the hive runs as",
            errno.EPERM: "not permitted; give the folder to the user that the hive runs as",
            errno.ENOENT: "it is not there; mount the disk or correct models_dir",
        }.get(error.errno or 0, error.strerror)
        raise ModelStoreError(f"{what}: {hint}") from error
