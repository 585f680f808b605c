"""Small pictures for tests: one colour, any size."""

import base64
import struct
import zlib


def png(width: int = 40, height: int = 40, colour: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """Return a PNG file (the PNG specification: header, one block of rows, end)."""
    rows = b"".join(b"\0" + bytes(colour) * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (_part(b"IHDR", head), _part(b"IDAT", zlib.compress(rows, 9)), _part(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(width: int = 1, height: int = 1) -> bytes:
    """Return the head of a GIF file, which says how large it is."""
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(24) + b";"


def base64_of(raw: bytes) -> str:
    """Return bytes as requests have them."""
    return base64.b64encode(raw).decode()


def data_url(raw: bytes, media: str = "image/png") -> str:
    """Return bytes as an address that holds them."""
    return f"data:{media};base64,{base64_of(raw)}"


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
