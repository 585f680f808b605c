"""Which worker has the beginning of a conversation in its cache, as far as its requests tell.

A prompt is known by marks: the checksums of its first 256, 512, 1024, … bytes. Two prompts with the same beginning
share every mark up to its end, so a mark that is found means at least half of the beginning that it could be, however
long histories grow, for a handful of numbers. Sums are of zlib, so that a queen that restarts chooses as before.
"""

from binascii import crc32
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

MARKS = tuple(256 << step for step in range(8))
"""Bytes. What is shorter is read again sooner than found; what is longer has its beginning in common already."""

TELLING = 3
"""The longest marks that are looked up: less than an eighth of a prompt is not worth going somewhere for it."""

MOST_MARKS = 65_536
"""Of all models together, some 10 MiB; those that were used least lately are forgotten."""

_STEPS = tuple(pairwise((0, *MARKS)))
_GOLDEN, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1

T = TypeVar("T")


def marks(opening: bytes, salt: int) -> list[int]:
    """Return the marks of a prompt, the shortest first; `salt` tells models apart."""
    found, size = [], len(opening)
    for start, end in _STEPS:
        if end > size:
            break
        salt = crc32(opening[start:end], salt)
        found.append(salt)
    return found


def rank(mark: int, number: int) -> int:
    """Return how much a prompt favours one of several workers that are equal, by a number that the worker keeps."""
    return ((mark ^ number) * _GOLDEN & _MASK) >> 20


@dataclass(eq=False, slots=True)
class Cache(Generic[T]):
    """The cache of a worker in one of its lives; `owner` is None once that is over."""

    owner: T | None


class Homes(Generic[T]):
    """Where each mark was seen last; two generations bound it without a look at any other mark."""

    def __init__(self, most: int = MOST_MARKS) -> None:
        self._half = most // 2
        self._young: dict[int, Cache[T]] = {}
        self._old: dict[int, Cache[T]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, found: list[int]) -> T | None:
        """Return who has most of a prompt with these marks, None if nobody has enough of it."""
        for mark in found[: -TELLING - 1 : -1]:
            cache = self._young.get(mark) or self._old.get(mark)
            if cache is not None and cache.owner is not None:
                return cache.owner
        return None

    def note(self, found: list[int], cache: Cache[T]) -> None:
        """Remember where a prompt with these marks goes."""
        young = self._young
        for mark in found:
            young[mark] = cache
        if len(young) >= self._half:
            self._old, self._young = young, {}
