"""Models on this host's disk: blobs named by their own sha256, and one manifest per model, written last.

`<root>/blobs/sha256-<hex>` and `<root>/manifests/<slug>.json` (a `ModelReport`). A model is there if its manifest
names blobs that exist with the right size; content is verified when it enters the store.
"""

import errno
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rbee_runtime import durable
from rbee_runtime.errors import ModelStoreError, StateError
from rbee_runtime.models.references import Scheme, parse_source, slug
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec, encode

BLOB_MODE = 0o640
"""The folder's group (rbee-models, setgid) may read."""

SPARE_BYTES = 256 * 1024 * 1024
"""Left free on the model disk, which may be the one that the state is on."""

_BLOCK = 4 * 1024 * 1024


class ModelStore:
    """One host's store. `adopt` takes minutes for a large model: call it from a thread."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._manifests = root / "manifests"

    def path_of(self, file: ModelFile) -> Path:
        """Return where a file's content is, whether or not it is there."""
        return self._blobs / f"sha256-{file.sha256}"

    def find(self, spec: ModelSpec) -> ModelReport | None:
        """Return the model if it is complete and, where the spec names files, exactly those."""
        report = self._read(self._manifest(spec.name))
        if report is None or report.name != spec.name or not self._complete(report):
            return None
        wanted = {(file.sha256, file.size) for file in spec.files}
        return report if not wanted or wanted == {(file.sha256, file.size) for file in report.files} else None

    def reports(self) -> tuple[ModelReport, ...]:
        """Return every complete model."""
        found = (self._read(path) for path in sorted(self._manifests.glob("*.json")))
        return tuple(report for report in found if report is not None and self._complete(report))

    def stamp(self, report: ModelReport) -> str:
        """Return a text that changes when a file of the model is written again; "" if one went away meanwhile."""
        try:
            stats = [self.path_of(file).stat() for file in report.files]
        except OSError:
            return ""
        return ",".join(f"{stat.st_ino}-{stat.st_mtime_ns}" for stat in stats)

    def adopt(self, spec: ModelSpec) -> ModelReport:
        """Take a `file:` model of this host into the store, or raise ModelStoreError and leave nothing behind."""
        source = parse_source(spec.source)
        if source.scheme is not Scheme.FILE:
            raise ModelStoreError(f"model {spec.name}: source {spec.source!r} has no file to take in")
        if len(spec.files) > 1:
            raise ModelStoreError(f"model {spec.name} has {len(spec.files)} files; pre-seed it by the deploy")
        self._check_manifest_is_ours(spec.name)
        path = Path(source.rest)
        wanted = spec.files[0] if spec.files else None
        if wanted is None or not self._has(wanted):
            wanted = self._take_in(spec.name, path, wanted)
        report = ModelReport(name=spec.name, size=wanted.size, files=(wanted,))
        self._write_manifest(report)
        return report

    def _check_manifest_is_ours(self, name: str) -> None:
        held = self._read(self._manifest(name))
        if held is not None and held.name != name:
            raise ModelStoreError(
                f"models {name} and {held.name} would share {self._manifest(name)}; rename one of them"
            )

    def _take_in(self, name: str, path: Path, wanted: ModelFile | None) -> ModelFile:
        size = _size(name, path)
        if wanted is not None and size != wanted.size:
            raise ModelStoreError(
                f"model {name}: {path} has {size} bytes, the inventory says {wanted.size}; "
                "replace the file or correct the inventory"
            )
        with _as_store_error(name, path):
            self._blobs.mkdir(parents=True, exist_ok=True)
            with self._draft() as draft:
                digest = _digest(draft) if _linked(path, draft) else self._copy(name, path, draft, size)
                if wanted is not None and digest != wanted.sha256:
                    raise ModelStoreError(
                        f"model {name}: {path} has sha256 {digest}, the inventory says {wanted.sha256}; "
                        "replace the file or correct the inventory"
                    )
                file = wanted or ModelFile(name=path.name, sha256=digest, size=size)
                draft.replace(self.path_of(file))
            durable.sync_folder(self._blobs)
        return file

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        # By host, because the store may be a network disk; a host takes in one model at a time.
        prefix = f".draft-{platform.node()}-"
        for abandoned in self._blobs.glob(f"{prefix}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self._blobs, prefix=prefix) as folder:
            yield Path(folder) / "blob"

    def _copy(self, name: str, path: Path, draft: Path, size: int) -> str:
        """Copy `path` to `draft` and return the digest of what was written."""
        free = shutil.disk_usage(self._blobs).free
        if free < size + SPARE_BYTES:
            raise ModelStoreError(
                f"model {name} needs {size} bytes and {SPARE_BYTES} to spare, but {self._blobs} has {free} free; "
                "free space there or set models_dir to a larger disk"
            )
        digest = hashlib.sha256()
        with path.open("rb") as source, draft.open("wb") as target:
            while block := source.read(_BLOCK):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fchmod(target.fileno(), BLOB_MODE)
            os.fsync(target.fileno())
        return digest.hexdigest()

    def _write_manifest(self, report: ModelReport) -> None:
        try:
            durable.write(self._manifest(report.name), encode(report), mode=BLOB_MODE)
        except StateError as error:
            raise ModelStoreError(f"model {report.name}: {error}") from error

    def _manifest(self, name: str) -> Path:
        return self._manifests / f"{slug(name)}.json"

    @staticmethod
    def _read(path: Path) -> ModelReport | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=ModelReport)
        except (OSError, msgspec.MsgspecError):
            return None

    def _complete(self, report: ModelReport) -> bool:
        return bool(report.files) and all(self._has(file) for file in report.files)

    def _has(self, file: ModelFile) -> bool:
        try:
            return self.path_of(file).stat().st_size == file.size
        except OSError:
            return False


def _linked(path: Path, draft: Path) -> bool:
    """Link a file of our own user on the same disk, which saves a copy of many GB; False where a copy is needed."""
    try:
        if path.stat().st_uid != os.geteuid():
            return False
        os.link(path.resolve(), draft)
    except OSError:
        return False
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(name: str, path: Path) -> int:
    with _as_store_error(name, path):
        if not path.is_file():
            raise ModelStoreError(
                f"model {name} is not on this host and {path} is not a file here; run the deploy to pre-seed it"
            )
        return path.stat().st_size


@contextmanager
def _as_store_error(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        what = "the model disk is full" if full else f"{error.strerror}"
        raise ModelStoreError(f"model {name}: cannot take in {path}: {what}") from error
