"""What a bundle says of itself: `bundle.json`, and beside it the hash that this file itself is held to.

releases/, tools/, engines/   archives, as hosts get them
models/sha256-<hex>           files of models, named by their own hash
images/                       container images
operator/                     wheels that run rbee-deploy where there is no network, and how
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from rbee_deploy.artefacts import Target
from rbee_deploy.errors import BundleError
from rbee_runtime.models.digests import is_sha256
from rbee_runtime.protocol import decode

SCHEMA = 1
MANIFEST = "bundle.json"
MANIFEST_HASH = "bundle.json.sha256"
ANY_PYTHON = ""
"""In the target of what runs without one."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=,-]{0,199}")


class Kind(StrEnum):
    """What a file of a bundle is."""

    RELEASE = "release"
    UV = "uv"
    ENGINE = "engine"
    MODEL = "model"
    IMAGE = "image"
    OPERATOR = "operator"


FOLDERS = {
    Kind.RELEASE: "releases",
    Kind.UV: "tools",
    Kind.ENGINE: "engines",
    Kind.MODEL: "models",
    Kind.IMAGE: "images",
    Kind.OPERATOR: "operator",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a bundle; `path` is relative to its folder, `size` bytes.

    `name` is the artefact's id, or what the file is called where it is used. `of` says what it is a part of: of a model
    its source, of an engine its name and variant. `target` is the least host that it fits; None means any.
    """

    kind: Kind
    name: str
    path: str
    size: int
    sha256: str
    of: str = ""
    target: Target | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle: of which rbee version and fleet, made when (UTC, ISO 8601), for which kinds of host, with what."""

    rbee: str
    fleet: str
    made: str
    targets: tuple[Target, ...]
    entries: tuple[Entry, ...]
    schema: int = SCHEMA

    def of_kind(self, kind: Kind, of: str = "") -> tuple[Entry, ...]:
        """Return the entries of a kind, and of one thing if it is given, in their order."""
        return tuple(entry for entry in self.entries if entry.kind is kind and of in {"", entry.of})


class _Any(msgspec.Struct):
    schema: int


def dump(manifest: Manifest) -> bytes:
    """Return the text of `bundle.json`."""
    plain: Any = msgspec.to_builtins(manifest)
    return msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"


def parse(data: bytes, where: str) -> Manifest:
    """Return what `bundle.json` says, or raise BundleError; `where` is its path, for sentences."""
    try:
        schema = decode(data, _Any).schema
        if schema > SCHEMA:
            raise BundleError(
                f"{where} is of schema {schema} and this rbee-deploy reads {SCHEMA}: "
                "use the rbee-deploy that is in the bundle, under operator/"
            )
        manifest = decode(data, Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"{where} is no manifest of a bundle ({error}); copy the bundle again") from error
    _check(manifest, where)
    return manifest


def _check(manifest: Manifest, where: str) -> None:
    """Raise BundleError for an entry that could not come from `rbee-deploy bundle`."""
    known: dict[str, tuple[str, int]] = {}
    for entry in manifest.entries:
        # Models of the same content share it.
        content = (entry.sha256, entry.size)
        wrong = _wrong(entry) or (
            "" if known.setdefault(entry.path, content) == content else "says two things of a file"
        )
        if wrong:
            raise BundleError(
                f"{where} {wrong}: {entry.path[:200]!r}; make the bundle again, and find out who did this"
            )


def _wrong(entry: Entry) -> str:
    parts = entry.path.split("/")
    if len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts) or parts[0] != FOLDERS[entry.kind]:
        return f"names a file outside its folder {FOLDERS[entry.kind]}/"
    if not is_sha256(entry.sha256) or entry.size < 0:
        return "has no hash and size for a file"
    return ""


def fits(entry: Entry, target: Target) -> bool:
    """Say whether a host of `target` can use an entry: its Python, its processor, and no older glibc."""
    least = entry.target
    if least is None:
        return True
    python = least.python in {ANY_PYTHON, target.python}
    return python and least.arch == target.arch and glibc(least) <= glibc(target)


def best(entries: tuple[Entry, ...], target: Target) -> Entry | None:
    """Return the entry that is made for the newest host that `target` is at least."""
    usable = [entry for entry in entries if fits(entry, target)]
    return max(usable, key=lambda entry: glibc(entry.target) if entry.target else (0,), default=None)


def glibc(target: Target) -> tuple[int, ...]:
    """Return a target's glibc, to compare by."""
    return tuple(int(part) for part in target.glibc.split(".") if part.isdigit())
