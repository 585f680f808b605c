"""What the operator's machine makes for hosts: targets, artefacts, and the cache that both are kept in."""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.errors import ArtefactError

CACHE_VARIABLE = "XDG_CACHE_HOME"

Say = Callable[[str], None]
"""Receives one line of progress without a newline."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The kind of host that an artefact is for; `python` and `glibc` are `major.minor`, `arch` is `uname -m`."""

    python: str = "3.13"
    arch: str = "x86_64"
    glibc: str = "2.36"

    @classmethod
    def this_machine(cls) -> "Target":
        """Return the target that the running interpreter is."""
        return cls(
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            arch=platform.machine(),
            glibc=platform.libc_ver()[1] or "0.0",
        )

    @property
    def label(self) -> str:
        """Return a short name fit for a file name."""
        return f"cp{self.python.replace('.', '')}-{self.arch}-glibc{self.glibc}"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One uncompressed tar without a leading folder; `sha256` and `size` (bytes) are the tar's.

    `glibc` is the least that a host of it needs, "" for what was chosen by that already.
    """

    id: str
    archive: Path
    sha256: str
    size: int
    glibc: str = ""


def cache_root() -> Path:
    """Return the folder that holds everything expensive, keyed by content; removing it costs time only."""
    base = os.environ.get(CACHE_VARIABLE)
    try:
        return (Path(base) if base else Path.home() / ".cache") / "rbee"
    except RuntimeError as error:
        raise ArtefactError(
            f"this user has no home folder for the cache: set {CACHE_VARIABLE} to a folder that it may write"
        ) from error


def say_to_stderr(line: str) -> None:
    """Print a line of progress where it mixes with no output that a program reads."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the default sink


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(*parts: str) -> str:
    """Return the hex digest of the parts, each kept apart from the next."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tree_digest(root: Path, paths: list[Path]) -> str:
    """Return the digest of the names and bytes of `paths`, which lie under `root`."""
    lines = [f"{path.relative_to(root).as_posix()} {file_sha256(path)}" for path in sorted(paths)]
    return digest_of(*lines)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Make a folder of the cache for the block, which puts the first file there; raises ArtefactError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ArtefactError(
            f"cannot write to {folder}: {error.strerror}; set {CACHE_VARIABLE} to a folder that you may write"
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock beside `path`, so that two runs make it once; a dead holder frees it."""
    with _writable(path.parent):
        handle = (path.parent / f".{path.name}.lock").open("w")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def fresh_dir(final: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` in one rename if the block succeeds, and vanishes if it fails."""
    with _writable(final.parent):
        draft = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield draft
        draft.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)
        draft.replace(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def fresh_file(final: Path) -> Iterator[Path]:
    """Yield a path to write that becomes `final` in one rename if the block succeeds, and vanishes if it fails."""
    draft = final.with_name(f".{final.name}.{os.getpid()}")
    with _writable(final.parent):
        draft.touch()
    try:
        yield draft
        draft.replace(final)
    finally:
        draft.unlink(missing_ok=True)


def cached_dir(final: Path, make: Callable[[Path], None]) -> Path:
    """Return `final`, made by `make(draft)` unless it is there; `final` exists only when complete."""
    if not final.is_dir():
        with locked(final):
            if not final.is_dir():
                _sweep(final)
                with fresh_dir(final) as draft:
                    make(draft)
    return final


def _sweep(final: Path) -> None:
    """Remove what a killed run left of `final`; the caller holds its lock."""
    for left in final.parent.glob(f".{final.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def pack(source: Path, archive: Path) -> None:
    """Write `source` as a tar that is the same bytes for the same names, contents and executable bits."""
    with fresh_file(archive) as draft, tarfile.open(draft, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(source.rglob("*")):
            tar.add(path, arcname=path.relative_to(source).as_posix(), recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def described(artefact_id: str, archive: Path) -> Artefact:
    """Return the artefact that `archive` holds."""
    return Artefact(id=artefact_id, archive=archive, sha256=file_sha256(archive), size=archive.stat().st_size)
