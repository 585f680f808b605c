"""What is added to a log file, although its writer's shim cuts the front off now and then."""

from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1024 * 1024
"""At most so much is taken at a time; a writer that is faster is followed late, not lost."""

SEAM_BYTES = 256
"""Enough of what was read last to find the place again in a file that was cut."""


class Tail:
    """A place in a file that moves on with each look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0
        self._seam = b""
        self._part = b""

    def last(self, lines: int) -> list[str]:
        """Return the last complete lines and go to the file's end; OSError."""
        content = self._path.read_bytes()
        self._place, self._seam = len(content), content[-SEAM_BYTES:]
        *found, self._part = content.split(b"\n")
        return _text(found[-lines:] if lines else [])

    def take(self) -> list[str]:
        """Return the lines that were completed since the last look."""
        try:
            with self._path.open("rb") as file:
                self._find_place(file)
                new = file.read(BLOCK_BYTES)
        except FileNotFoundError:
            return []
        self._place += len(new)
        self._seam = (self._seam + new)[-SEAM_BYTES:]
        *found, self._part = (self._part + new).split(b"\n")
        if len(self._part) > BLOCK_BYTES:
            # A line without an end is shown in pieces, or it would fill the hive's memory.
            found, self._part = [*found, self._part], b""
        return _text(found)

    def _find_place(self, file: BinaryIO) -> None:
        """Go to where the last look ended, which is further to the front in a file that was cut."""
        file.seek(self._place - len(self._seam))
        if file.read(len(self._seam)) != self._seam:
            file.seek(0)
            before, found, _ = file.read().rpartition(self._seam)
            self._place = len(before) + len(found)
        file.seek(self._place)


def _text(lines: list[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines]
