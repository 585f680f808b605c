"""Safetensors weights in several files: `model.safetensors.index.json` says which tensor is in which."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.bounded_json import TextPairs, name_of, read_bytes
from rbee_runtime.protocol import decode

SUFFIX = ".safetensors.index.json"

MAX_INDEX = 32 << 20
"""Bytes; 140,000 tensors of the largest published mixture of experts take 14 MiB."""

MAX_TENSORS = 1 << 18
MAX_PARTS = 9999

_WEIGHT_MAP = re.compile(rb'"weight_map"[ \t\r\n]*:[ \t\r\n]*\{')
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


class _Index(msgspec.Struct):
    weight_map: msgspec.Raw


def read_index(path: Path, name: str) -> dict[str, str]:
    """Return which file each tensor is in, or raise ModelFormatError."""
    content = read_bytes(path, name, MAX_INDEX)
    try:
        decode(content, _Index)
    except msgspec.MsgspecError as error:
        raise ModelFormatError(f"{name} is damaged: it has no weight_map ({error})") from error
    start = _WEIGHT_MAP.search(content)
    if content.count(b'"weight_map"') != 1 or start is None:
        raise ModelFormatError(f"{name} is damaged: its weight_map is not one list of tensors")
    return _places(content, start.end(), name)


def _places(content: bytes, start: int, name: str) -> dict[str, str]:
    places: dict[str, str] = {}
    shards: dict[bytes, str] = {}
    for quoted, shard in TextPairs(content, start, name, MAX_TENSORS):
        if shard not in shards:
            shards[shard] = _plain(name_of(shard, name), name)
        tensor = name_of(quoted, name)
        if tensor in places:
            raise ModelFormatError(f"{name} is damaged: {tensor!r} is there twice")
        places[tensor] = shards[shard]
    if not places:
        raise ModelFormatError(f"{name} is damaged: it names no tensors")
    return places


def _plain(shard: str, name: str) -> str:
    if not _SHARD.fullmatch(shard):
        raise ModelFormatError(f"{name} is damaged: {shard[:80]!r} is not the plain name of a safetensors file")
    return shard


def check_present(places: Mapping[str, str], names: Iterable[str], name: str) -> None:
    """Raise ModelFormatError unless every file that the index names is there."""
    wanted = set(places.values())
    lack = sorted(wanted - set(names))
    if lack:
        raise ModelFormatError(f"{name} names {lack[0]}, which is not there; fetch all {len(wanted)} files")


def check_numbers(names: Iterable[str]) -> None:
    """Raise ModelFormatError if files numbered `-00001-of-0000N` lack one; for models without an index."""
    sets: dict[tuple[str, int], set[int]] = {}
    for part in filter(None, map(_PART.fullmatch, names)):
        sets.setdefault((part["stem"], int(part["count"])), set()).add(int(part["number"]))
    for (stem, count), numbers in sets.items():
        lack = sorted(set(range(1, min(count, MAX_PARTS) + 1)) - numbers)
        if lack:
            raise ModelFormatError(
                f"{stem} lacks part {lack[0]} of {count} ({stem}-{lack[0]:05}-of-{count:05}.safetensors); "
                "fetch all parts"
            )
