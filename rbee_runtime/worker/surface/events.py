"""Server-sent events as they go out."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec


def event(item: Mapping[str, Any]) -> bytes:
    """Return an event without a name, as OpenAI has them."""
    return b"data: " + msgspec.json.encode(item) + b"\n\n"


def named_event(name: str, item: Mapping[str, Any]) -> bytes:
    """Return an event with a name, which its body has as its type."""
    return f"event: {name}\n".encode() + event({"type": name, **item})


class Template:
    """An event that comes again and again with another text: a token is worth no more than that.

    `written` returns it with a text.
    """

    def __init__(self, written: Callable[[str], bytes]) -> None:
        mark = secrets.token_hex(16)
        self._head, self._tail = written(mark).split(msgspec.json.encode(mark))

    def filled(self, text: str) -> bytes:
        """Return the event with this text."""
        return self._head + msgspec.json.encode(text) + self._tail
