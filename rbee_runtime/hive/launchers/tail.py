"""What is added to a log file, although its writer's shim cuts the front off now and then."""

import os
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1024 * 1024
"""At most so much is taken at a time; a writer that is faster is followed late, not lost."""

LAST_BYTES = 16 * 1024 * 1024
"""Twice what a shim lets a log grow to; of a worker that writes faster than it is cut, only so much is looked at."""

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
        with self._path.open("rb") as file:
            start, content = _end(file)
        self._place, self._seam = start + len(content), content[-SEAM_BYTES:]
        *found, self._part = content.split(b"\n")
        whole = found[1:] if start else found
        return _text(whole[-lines:] if lines else [])

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
            start, content = _end(file)
            before, found, _ = content.rpartition(self._seam)
            if found:
                self._place = start + len(before) + len(found)
            else:
                # Nothing of what was read is left, so that the line which it ended in has no end either.
                self._part = b""
                self._place = start + (content.find(b"\n") + 1 if start else 0)
        file.seek(self._place)


def _end(file: BinaryIO) -> tuple[int, bytes]:
    """Return the last bytes of a file and where they begin."""
    start = max(0, file.seek(0, os.SEEK_END) - LAST_BYTES)
    file.seek(start)
    return start, file.read(LAST_BYTES)


def _text(lines: list[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines]
