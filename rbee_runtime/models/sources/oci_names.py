"""What a manifest of a registry says about a model: pure, on decoded documents of bounded size.

Three forms are understood: artefacts whose layers are named files (annotation `org.opencontainers.image.title` or
ModelPack's `org.cncf.model.filepath`), artefacts with one layer of a model's own media type, and images of which one
tar layer holds a file under `models/`.
"""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import references

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
TITLE = "org.opencontainers.image.title"
MODEL_PATH = "org.cncf.model.filepath"
MAX_LAYERS = 2000
MAX_SIZE = 1 << 44
"""Bytes; 16 TiB is above every model and below what overflows."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAR = re.compile(r"(\.|\+|/)(tar|rootfs\.diff\.tar)(\.|\+|$)")
_MODEL = re.compile(r"gguf|ollama\.image\.model$|safetensors")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Blob:
    """A layer: its digest, bytes, media type, and the file name that the manifest gives it ("" for none)."""

    digest: str
    size: int
    media_type: str
    title: str = ""

    @property
    def is_tar(self) -> bool:
        """Say whether it is an archive rather than a file."""
        return bool(_TAR.search(self.media_type))

    @property
    def file_name(self) -> str:
        """Return the name under which engines find it; "" if it is not a file of a model."""
        if self.title or not _MODEL.search(self.media_type):
            return self.title
        return "model.safetensors" if "safetensors" in self.media_type else "model.gguf"


def choose(index: Mapping[str, Any], where: str, machine: str | None = None) -> str:
    """Return the digest of the one manifest of an index that is for this machine, or raise ModelStoreError."""
    wanted = _MACHINES.get(machine or platform.machine(), machine or platform.machine())
    entries = [entry for entry in _mappings(index, "manifests") if not _is_attestation(entry)]
    fitting = entries if len(entries) == 1 else [entry for entry in entries if _fits(entry, wanted)]
    if not fitting:
        raise ModelStoreError(f"{where} has nothing for linux/{wanted}; it has {_platforms(entries)}")
    return _blob(fitting[0], where).digest


def layers(manifest: Mapping[str, Any], where: str) -> tuple[Blob, ...]:
    """Return the layers of a manifest, or raise ModelStoreError where it is none."""
    if "layers" not in manifest:
        raise ModelStoreError(f"{where} is neither an artefact nor an image: its manifest has no layers")
    found = tuple(_blob(entry, where) for entry in _mappings(manifest, "layers"))
    if len(found) > MAX_LAYERS:
        raise ModelStoreError(f"{where} has more than {MAX_LAYERS} layers: it is not one model")
    return found


def named(found: Sequence[Blob], where: str) -> dict[str, Blob]:
    """Return the layers that are files, by name; empty for an image. Raises ModelStoreError for a name not allowed."""
    files: dict[str, Blob] = {}
    for blob in found:
        if blob.is_tar or not blob.file_name:
            continue
        name = checked_name(blob.file_name, where)
        if name in files:
            raise ModelStoreError(f"{where} has two layers named {name}; push each file once")
        files[name] = blob
    return files


def checked_name(name: str, where: str) -> str:
    """Return a file name of a remote document without a leading `./`, or raise ModelStoreError."""
    try:
        return references.check_file_name(name.removeprefix("./"))
    except ReferenceFormError as error:
        raise ModelStoreError(f"{where}: {error}") from error


def _blob(entry: Mapping[str, Any], where: str) -> Blob:
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ModelStoreError(f"{where} names a part by {str(digest)[:80]!r}, which is not a sha256 digest")
    if not isinstance(size, int) or not 0 <= size <= MAX_SIZE:
        raise ModelStoreError(f"{where} gives {str(size)[:40]!r} as a size of {digest}")
    annotations = entry.get("annotations")
    titles = annotations if isinstance(annotations, dict) else {}
    return Blob(digest, size, str(media_type or ""), str(titles.get(TITLE) or titles.get(MODEL_PATH) or ""))


def _mappings(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = document.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _platform(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("platform")
    return found if isinstance(found, dict) else {}


def _is_attestation(entry: Mapping[str, Any]) -> bool:
    return _platform(entry).get("os") == "unknown"


def _fits(entry: Mapping[str, Any], wanted: str) -> bool:
    found = _platform(entry)
    return not found or (found.get("os") == "linux" and found.get("architecture") == wanted)


def _platforms(entries: Sequence[Mapping[str, Any]]) -> str:
    found = (_platform(entry) for entry in entries)
    return ", ".join(f"{entry.get('os')}/{entry.get('architecture')}" for entry in found) or "nothing at all"
