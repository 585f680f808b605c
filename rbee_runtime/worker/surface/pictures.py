"""Pictures in a conversation: within the request, of a kind and size that a decoder can be given.

Nothing is fetched for a client: an address could be one that only this machine reaches.
"""

import base64
import binascii
import io
from collections.abc import Iterable, Sequence

import imagesize

from rbee_runtime.worker.engines import Message, Picture
from rbee_runtime.worker.surface.generation import invalid, unsupported

MOST_PIXELS = 32_000_000
"""Of one picture: more than cameras of phones give by themselves. What is small in a request may be any size once it is
unpacked: llama.cpp's server had 1.08 GB at its peak for 12,000 x 12,000 that came in 450 kB, and 0.24 after."""

MOST_PICTURES, MOST_PIXELS_TOGETHER = 32, 64_000_000
"""Of a conversation; a server keeps all of them unpacked until the prompt is read."""

MOST_READS = 2000
"""Of a picture's head: a JPEG has some dozens of segments, and one of millions would hold up everybody."""

_HEADS = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8", "image/webp": b"RIFF"}
_DATA, _BASE64 = "data:", ";base64,"


def from_url(url: str, where: str) -> Picture:
    """Return the picture in a data URL, or raise RequestError (400) naming the field."""
    head, found, data = url.partition(_BASE64)
    if not found or not head.startswith(_DATA):
        raise unsupported(where, "a picture is sent within the request, as data:image/png;base64,…; none is fetched")
    return from_base64(data, where)


def from_base64(data: str, where: str) -> Picture:
    """Return a picture, or raise RequestError (400) naming the field; its bytes say of which kind it is."""
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{where}: the picture is not in base64: {error}", where) from error
    media = next((kind for kind, head in _HEADS.items() if raw.startswith(head)), None)
    width, height = _size(raw) if media is not None else (-1, -1)
    if media is None or width < 1 or height < 1:
        raise invalid(f"{where}: this is no picture; {', '.join(_HEADS)} are read", where)
    if width * height > MOST_PIXELS:
        raise invalid(
            f"{where}: the picture has {width} x {height} pixels, {MOST_PIXELS:,} are read at most; make it smaller",
            where,
        )
    return Picture(media, data, width * height)


def split(parts: Iterable[str | Picture]) -> tuple[str, tuple[str | Picture, ...]]:
    """Return a turn's text, and all its parts if pictures are among them."""
    found = tuple(parts)
    text = "".join(part for part in found if isinstance(part, str))
    return text, found if any(isinstance(part, Picture) for part in found) else ()


def demand_few(kinds: Iterable[str], kind: str) -> None:
    """Raise RequestError if more parts are of this kind than pictures are read; before any of them is looked at."""
    count = sum(each == kind for each in kinds)
    if count > MOST_PICTURES:
        raise invalid(f"messages: there are {count} pictures, {MOST_PICTURES} are read at most", "messages")


def demand_small(messages: Sequence[Message]) -> None:
    """Raise RequestError if the pictures of a conversation are too many pixels together, or in a system's words."""
    parts = [(message.role, part) for message in messages for part in message.parts if isinstance(part, Picture)]
    pixels = sum(part.pixels for _, part in parts)
    if pixels > MOST_PIXELS_TOGETHER:
        message = f"messages: the pictures have {pixels:,} pixels together, {MOST_PIXELS_TOGETHER:,} are read at most"
        raise invalid(message, "messages")
    if any(role == "system" for role, _ in parts):
        raise unsupported("messages", "pictures belong into messages of users")


class _Head(io.BytesIO):
    """Bytes that can be read so often and no more."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise ValueError("too many parts")
        return super().read(size)


def _size(raw: bytes) -> tuple[int, int]:
    try:
        width, height = imagesize.get(_Head(raw))
    except Exception:  # noqa: BLE001 - whatever a stranger's bytes do to a reader of them
        return -1, -1
    return int(width), int(height)
