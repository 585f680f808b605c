"""Reading forward through the header of a binary file that nobody vouches for.

Reads blocks instead of mapping the file: one that is cut off while it is read gives an error, not a SIGBUS.
"""

import struct
from typing import BinaryIO

from rbee_runtime.errors import ModelFormatError

MAX_HEADER = 128 << 20
"""Bytes; a vocabulary of 260,000 tokens with its merges takes 15 MiB."""

MAX_TEXT = 1 << 20
"""Bytes of one string; licences and chat templates are the longest."""

MAX_TEXTS = 8 << 20
"""Bytes of all strings that are kept. A Python string takes up to four times as much."""

_BLOCK = 1 << 20
_LENGTH = struct.Struct("<Q")


class Cursor:
    """A place in the file `name` of `size` bytes; every step is checked against both bounds before it is made."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._size = size
        self._name = name
        self._block = b""
        self._start = 0
        self._at = 0
        self._texts = MAX_TEXTS

    @property
    def position(self) -> int:
        """Return the offset in the file."""
        return self._start + self._at

    def bad(self, what: str) -> ModelFormatError:
        """Return the error that says what is wrong with this file."""
        return ModelFormatError(f"{self._name} {what}")

    def take(self, layout: struct.Struct) -> tuple[int | float, ...]:
        """Return the next values."""
        at = self._step(layout.size)
        return layout.unpack_from(self._block, at)

    def number(self, layout: struct.Struct) -> int:
        """Return the next value where it is a whole number."""
        return int(self.take(layout)[0])

    def text(self, limit: int, what: str) -> str:
        """Return the next string of at most `limit` bytes; bytes that are not UTF-8 become U+FFFD."""
        length = self.number(_LENGTH)
        if length > limit:
            raise self.bad(f"is damaged: {what} is {length} bytes long, at most {limit} are read")
        self._texts -= length
        if self._texts < 0:
            raise self.bad(f"is damaged: it holds more than {MAX_TEXTS >> 20} MiB of text outside its vocabulary")
        at = self._step(length)
        return self._block[at : at + length].decode("utf-8", "replace")

    def skip(self, count: int) -> None:
        """Step over `count` bytes without reading them."""
        self._check(count)
        self._at += count

    def skip_texts(self, count: int) -> None:
        """Step over `count` strings: the loop that a vocabulary of hundreds of thousands of tokens goes through."""
        unpack = _LENGTH.unpack_from
        block, at, end = self._block, self._at, len(self._block) - 8
        for _ in range(count):
            if at > end:
                self._at = at
                at = self._step(8)
                block, end = self._block, len(self._block) - 8
            length = unpack(block, at)[0]
            if length > MAX_TEXT:
                raise self.bad(f"is damaged: a string is {length} bytes long, at most {MAX_TEXT} are read")
            at += 8 + length
        self._at = at
        self._check(0)

    def _step(self, count: int) -> int:
        """Move on by `count` bytes and return where in the block they begin."""
        if self._at + count > len(self._block):
            self._load(count)
        at = self._at
        self._at += count
        return at

    def _load(self, count: int) -> None:
        self._check(count)
        position = self.position
        self._file.seek(position)
        self._block = self._file.read(max(count, _BLOCK))
        self._start, self._at = position, 0
        if len(self._block) < count:
            raise self.bad(f"became shorter while it was read, at byte {position + len(self._block)}")

    def _check(self, count: int) -> None:
        end = self.position + count
        if end > self._size:
            raise self.bad(f"is cut off: {self._size} bytes, but its header goes on to byte {end}; fetch it again")
        if end > MAX_HEADER:
            raise self.bad(f"is damaged: its header is longer than {MAX_HEADER >> 20} MiB")
