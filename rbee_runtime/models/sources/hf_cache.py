"""Models that a Hugging Face cache on this host already holds, so that nobody fetches or stores them twice.

Layout (huggingface_hub's, also with blobs shared between repositories): `models--<org>--<repo>/` with `refs/<name>`
(a file with the commit), `snapshots/<commit>/<file>` (a link to a blob), `blobs/<hex>` named by the content: sha256
of large files, git's blob name of small ones; a blob may itself be a link into `<cache>/blobs/`. `trees/<commit>.json`,
where the client wrote it, lists all files of the commit. Nothing of it is trusted before it has been hashed.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import references
from rbee_runtime.models.sources import Listing, RemoteFile
from rbee_runtime.models.sources.git_blob import GitBlob
from rbee_runtime.models.sources.selection import select
from rbee_runtime.protocol import decode

MAX_JSON = 64 * 1024 * 1024
"""Bytes of an index or tree listing; the largest real ones have a few MB."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"models--([A-Za-z0-9._-]+?)--([A-Za-z0-9._-]+)")
_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository in a cache; `refs` are the names that led to it."""

    repository: str
    commit: str
    folder: Path
    cache: Path
    refs: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Return the reference that names exactly this."""
        return f"hf:{self.repository}@{self.commit}"


def caches(settings: StoreSettings, env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the readable caches: those of the settings, then where the environment and the home folder have one."""
    usual = {"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "huggingface", "HOME": ".cache/huggingface"}
    named = [*settings.hf_caches, *(Path(env[name]) / below for name, below in usual.items() if env.get(name))]
    # Path.is_dir raises where this user may not look.
    found = (path / "hub" if os.path.isdir(path / "hub") else path for path in named)  # noqa: PTH112
    return tuple(dict.fromkeys(path for path in found if _is_cache(path)))


def snapshots(found: Sequence[Path]) -> Iterator[Snapshot]:
    """Yield every snapshot in the caches, complete or not."""
    for cache in found:
        for folder in _folders(cache):
            name = _FOLDER.fullmatch(folder.name)
            if name is not None:
                yield from _of_repository(cache, folder, f"{name[1]}/{name[2]}")


def adoptable(found: Sequence[Path]) -> tuple[Snapshot, ...]:
    """Return the snapshots that hold exactly one complete model, as `hf:org/repo` without a glob would choose it."""
    return tuple(snapshot for snapshot in snapshots(found) if _holds_one(snapshot))


def find(parsed: references.Source, found: Sequence[Path], *, commit: str = "") -> Snapshot | None:
    """Return the snapshot of a reference: of `commit` where the hub said which, else of the cache's own refs."""
    wanted = commit or parsed.revision or "main"
    for snapshot in snapshots(found):
        if snapshot.repository == parsed.place and wanted in {snapshot.commit, *snapshot.refs}:
            return snapshot
    return None


def listing(snapshot: Snapshot, glob: str = "") -> Listing:
    """Return a model of a snapshot as files of this host, or raise ModelStoreError saying what is missing of it."""
    where = f"the cached snapshot {snapshot.folder}"
    there = dict(_files(snapshot))
    known = _tree(snapshot) or set(there)
    chosen = select(sorted(known), glob=glob, where=where)
    missing = [name for name in (*chosen, *_indexed(there, chosen)) if name not in there]
    if missing:
        raise ModelStoreError(f"{where} lacks {len(set(missing))} files of the model, {missing[0]} first")
    return Listing(tuple(_remote(snapshot, name, there[name]) for name in chosen), revision=snapshot.commit)


def present(file: RemoteFile, found: Sequence[Path], repository: str) -> RemoteFile:
    """Return `file` with the path of its content, if a cache has that large file of the repository, else as it is."""
    name = f"models--{repository.replace('/', '--')}"
    for cache in found if file.sha256 else ():
        path = _inside(cache, cache / name / "blobs" / str(file.sha256))
        with suppress(OSError):
            if path is not None and path.stat().st_size == file.size:
                return replace(file, path=path)
    return file


def _is_cache(path: Path) -> bool:
    return bool(_folders(path)) and os.access(path, os.R_OK | os.X_OK)


def _folders(cache: Path) -> list[Path]:
    try:
        return sorted(path for path in cache.iterdir() if path.name.startswith("models--") and path.is_dir())
    except OSError:
        return []


def _of_repository(cache: Path, folder: Path, repository: str) -> Iterator[Snapshot]:
    refs = _refs(folder / "refs")
    with suppress(OSError):
        for path in sorted((folder / "snapshots").iterdir()):
            if _COMMIT.fullmatch(path.name) and path.is_dir():
                names = tuple(name for name, commit in refs.items() if commit == path.name)
                yield Snapshot(repository, path.name, folder, cache, names)


def _refs(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with suppress(OSError, UnicodeDecodeError):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = _head(path, 64).decode().strip()
    return found


def _holds_one(snapshot: Snapshot) -> bool:
    try:
        listing(snapshot)
    except ModelStoreError:
        return False
    return True


def _files(snapshot: Snapshot) -> Iterator[tuple[str, Path]]:
    """Yield name and link of each file that is there in full, within the cache, and of a name that we take."""
    folder = snapshot.folder / "snapshots" / snapshot.commit
    for path in sorted(folder.rglob("*")):
        with suppress(ReferenceFormError):
            name = references.check_file_name(path.relative_to(folder).as_posix())
            if _inside(snapshot.cache, path) is not None:
                yield name, path


def _inside(cache: Path, path: Path) -> Path | None:
    """Return the regular file that a link leads to, unless that is outside of the cache."""
    try:
        real = path.resolve(strict=True)
        return real if real.is_file() and real.is_relative_to(cache.resolve(strict=True)) else None
    except (OSError, RuntimeError):
        return None


def _tree(snapshot: Snapshot) -> set[str]:
    """Return the names of all files of the commit, or nothing where the client did not write them down."""
    return set(_json(snapshot.folder / "trees" / f"{snapshot.commit}.json").get("files", ()))


def _indexed(there: Mapping[str, Path], chosen: Sequence[str]) -> set[str]:
    """Return what the chosen indexes of safetensors weights name as their parts."""
    indexes = [name for name in chosen if name.endswith(".safetensors.index.json") and name in there]
    return {
        f"{index.rpartition('/')[0]}/{part}".lstrip("/")
        for index in indexes
        for part in _json(there[index]).get("weight_map", {}).values()
    }


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON file as a mapping, empty where it is none: such a file only adds to what is known."""
    try:
        read = decode(_head(path, MAX_JSON), dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}
    return {name: value for name, value in read.items() if isinstance(value, dict)}


def _head(path: Path, limit: int) -> bytes:
    with path.open("rb") as opened:
        return opened.read(limit)


def _remote(snapshot: Snapshot, name: str, path: Path) -> RemoteFile:
    real = _inside(snapshot.cache, path)
    if real is None:
        raise ModelStoreError(f"the cached file {path} went away; fetch the model again")
    try:
        blob = _blob(path)
        sha256 = blob if _SHA256.fullmatch(blob) else _small(real, blob)
        return RemoteFile(name, real.stat().st_size, sha256=sha256, etag=blob, locator=str(real), path=real)
    except OSError as error:
        raise ModelStoreError(
            f"cannot read the cached file {real}: {error.strerror}; let the hive's user read it, or take the cache "
            "out of hf_caches"
        ) from error


def _blob(path: Path) -> str:
    """Return the content's name: that of the first link, because a shared blob behind it is named otherwise."""
    return path.readlink().name if path.is_symlink() else ""


def _small(path: Path, blob: str) -> str:
    """Return the sha256 of a file that git names, after checking it, or raise ModelStoreError."""
    named, digest = GitBlob(path.stat().st_size), hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            named.update(block)
            digest.update(block)
    if _COMMIT.fullmatch(blob) and named.hexdigest() != blob:
        raise ModelStoreError(f"the cached file {path} is damaged: git names its content {blob}; delete it there")
    return digest.hexdigest()
