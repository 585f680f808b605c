"""Heads of requests that came before on the same connection, byte for byte but for the length of the body. Pure.

Clients send the same head again and again, and to read one is a third of the work for a short answer. What was found
sound once is sound again: the same bytes are framed in the same way, and the length is digits in the same place.
"""

import re

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"
MOST_DIGITS = 9


class Head:
    """A head of a request that a parser has read, in two halves around its length."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after

    def length_of(self, data: bytes) -> tuple[bytes, int] | None:
        """Return the digits of the length in what begins with this head, and where its body begins; None if nothing."""
        if not data.startswith(self._before):
            return None
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + MOST_DIGITS + 1)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        return digits, end + len(self._after)


def head_of(data: bytes) -> Head | None:
    """Return the head of the one request of which this is the beginning; None if it is not whole, or more came."""
    end = data.find(_END)
    found = _LENGTH.search(data, 0, end + 2) if end >= 0 else None
    if found is None or len(data) - end - len(_END) > int(found[1]):
        return None
    return Head(data[: found.start(1)], data[found.end(1) : end + len(_END)])
