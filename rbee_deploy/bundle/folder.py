"""A bundle's folder: reading its manifest, and holding every file to it."""

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.artefacts import Say, file_sha256, say_to_stderr
from rbee_deploy.bundle.manifest import MANIFEST, MANIFEST_HASH, Entry, Manifest, parse
from rbee_deploy.errors import BundleError

MOST_MANIFEST = 16 << 20
"""Bytes; a real one has some hundred lines."""

LARGE = 1 << 30
"""Bytes that take long enough to read that a person should know what is waited for."""

AGAIN = "copy the bundle again from where it was made"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that lies in `folder`; `sha256` is that of its manifest, and so stands for all of it."""

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(entry.size for entry in self.manifest.entries)

    def path(self, entry: Entry) -> Path:
        """Return where the file of an entry is."""
        return self.folder / entry.path


def read(folder: Path) -> Bundle:
    """Return the bundle in `folder`, its manifest checked and nothing else; raises BundleError."""
    path = folder / MANIFEST
    data, said = _bytes(path), _bytes(folder / MANIFEST_HASH)
    found = hashlib.sha256(data).hexdigest()
    if said.split()[:1] != [found.encode()]:
        raise BundleError(f"{path} is not what {MANIFEST_HASH} says it is; {AGAIN}")
    return Bundle(folder=folder, manifest=parse(data, str(path)), sha256=found)


def _bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MOST_MANIFEST:
            raise BundleError(f"{path} is no file of a bundle; {AGAIN}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path.parent} is no bundle: it has no {path.name}; {AGAIN}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}; {AGAIN}") from error


def problems(bundle: Bundle) -> tuple[str, ...]:
    """Return a sentence for every file that is not as the manifest says; this reads all of it."""
    entries = {entry.path: entry for entry in bundle.manifest.entries}
    return tuple(sentence for entry in entries.values() for sentence in _wrong(bundle, entry))


def _wrong(bundle: Bundle, entry: Entry) -> Iterator[str]:
    path = bundle.path(entry)
    try:
        if any(parent.is_symlink() for parent in (path, *path.parents[: entry.path.count("/")])):
            yield f"{path} is or lies behind a link; {AGAIN}"
        elif not stat.S_ISREG(path.lstat().st_mode):
            yield f"{path} is no file; {AGAIN}"
        elif path.stat().st_size != entry.size:
            yield f"{path} has {path.stat().st_size} bytes, and {MANIFEST} says {entry.size}; {AGAIN}"
        elif file_sha256(path) != entry.sha256:
            yield f"{path} is not what {MANIFEST} says it is; {AGAIN}"
    except FileNotFoundError:
        yield f"{path} is missing; {AGAIN}"
    except OSError as error:
        yield f"cannot read {path}: {error.strerror}; {AGAIN}"


def strangers(bundle: Bundle) -> tuple[str, ...]:
    """Return what lies in the folder and is not of the bundle, as relative paths; nothing of it is ever used."""
    known = {MANIFEST, MANIFEST_HASH, *(entry.path for entry in bundle.manifest.entries)}
    folders = {str(parent) for name in known for parent in Path(name).parents}
    found = (path.relative_to(bundle.folder).as_posix() for path in sorted(bundle.folder.rglob("*")))
    return tuple(name for name in found if name not in known and name not in folders)


def verified(folder: Path, pinned: str | None = None, *, say: Say = say_to_stderr) -> Bundle:
    """Return the bundle in `folder` once every file in it is as it was made; raises BundleError naming what is not.

    `pinned` is the hash that was printed when it was made: with it, nobody on the way can have made another.
    """
    bundle = read(folder)
    if pinned is not None and pinned.lower() != bundle.sha256:
        raise BundleError(
            f"{folder} is bundle {bundle.sha256} and not {pinned}: take the one that you mean, or correct the hash"
        )
    if bundle.size >= LARGE:
        say(f"verify {folder}: {bundle.size / (1 << 30):.1f} GiB")
    wrong = problems(bundle)
    if wrong:
        raise BundleError("\n".join(wrong))
    say(f"bundle {bundle.sha256[:12]} of rbee {bundle.manifest.rbee}: {len(bundle.manifest.entries)} files as made")
    for name in strangers(bundle)[:3]:
        say(f"{folder / name} is not of the bundle and is not used")
    return bundle
