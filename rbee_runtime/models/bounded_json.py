"""JSON from files that nobody vouches for: its size, depth and keys are checked before Python objects are made of it.

Regular expressions here look at no byte twice: an unclosed string runs to the end instead of being tried again.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rbee_runtime.errors import ModelFormatError

MAX_DEPTH = 32
"""Published configurations nest about six deep."""

MAX_NAME = 512
"""Characters of a tensor or file name."""

_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SPACE = rb"[ \t\r\n]*"
STRING = rb'("[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+")'
"""A quoted string as a group."""

_PAIR = re.compile(_SPACE + STRING + _SPACE + b":" + _SPACE + STRING + _SPACE + b"([,}])")
_EMPTY = re.compile(_SPACE + rb"\}")


def read_bytes(path: Path, name: str, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes, called `name` in errors."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ModelFormatError(f"{name} has {size} bytes, at most {limit} are read")
            return file.read(limit)
    except OSError as error:
        raise ModelFormatError(f"cannot read {name}: {error.strerror}") from error


def parse_object(content: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object of the file `name` or raise ModelFormatError."""
    _check_depth(content, name)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ModelFormatError(f"{name} is damaged: {key[:80]!r} is there twice")
            found[key] = value
        return found

    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{name} is damaged: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{name} is damaged: it holds no JSON object")
    return value


class TextPairs:
    """The pairs of a JSON object of strings whose first pair begins at `start`: still quoted, at most `limit`.

    After the loop `end` is the place behind the object. Whoever keeps the pairs looks for keys that are there twice.
    """

    def __init__(self, content: bytes, start: int, name: str, limit: int) -> None:
        self._content = content
        self._name = name
        self._limit = limit
        self.end = start

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        empty = _EMPTY.match(self._content, self.end)
        count = 0
        while empty is None:
            match = _PAIR.match(self._content, self.end)
            if match is None:
                raise self._bad(f"it does not hold pairs of strings at byte {self.end}")
            count += 1
            if count > self._limit:
                raise self._bad(f"a list has more than {self._limit} entries")
            self.end = match.end()
            yield match[1], match[2]
            empty = match if match[3] == b"}" else None
        self.end = empty.end()

    def _bad(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self._name} is damaged: {what}")


def name_of(quoted: bytes, name: str) -> str:
    """Return the printable ASCII text of a JSON string, its quotes included."""
    # An escaped character takes up to six bytes.
    short = len(quoted) <= 6 * MAX_NAME + 2
    try:
        text = str(json.loads(quoted)) if short else ""
    except ValueError:
        text = ""
    if not text or len(text) > MAX_NAME or not (text.isascii() and text.isprintable()):
        raise ModelFormatError(f"{name} is damaged: {quoted[:60]!r} is not a name")
    return text


def _check_depth(content: bytes, name: str) -> None:
    depth = 0
    for token in _STRUCTURE.finditer(content):
        first = token[0][:1]
        depth += 1 if first in b"[{" else -1 if first in b"]}" else 0
        if depth > MAX_DEPTH:
            raise ModelFormatError(f"{name} is damaged: it nests more than {MAX_DEPTH} deep")
