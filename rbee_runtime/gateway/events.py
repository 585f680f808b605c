"""Whole server-sent events out of arbitrary pieces, looking at the end of each piece only."""

import re

_LAST_ONE = re.compile(
    rb'data: ?(?:\[DONE\]|\{"error")|event: ?(?:error|message_stop|response\.(?:completed|incomplete|failed))'
)
"""How the last event of a stream begins: OpenAI's, Anthropic's, and that of a failure."""

_STARTS = (b"data:", b":", b"event:", b"id:", b"retry:")
_MAX_HELD = 64 * 1024
"""A longer event goes out in parts: memory per stream stays bounded."""

_BEGINNING = 64
"""Bytes by which the last event of a stream is known."""


class Events:
    """Holds back the beginning of an unfinished event.

    A worker that dies within an event would otherwise leave half a line with the client, and the error event after it
    could not be told from it. The usual piece ends with an event and passes through untouched.
    """

    def __init__(self) -> None:
        self._held = b""
        self._last = b""
        self._begun = b""
        self._plausible = False

    @property
    def torn(self) -> bool:
        """Say whether a part of an event is out already."""
        return bool(self._begun)

    @property
    def done(self) -> bool:
        """Say whether the stream came to a proper end, which an error event of the worker's own is too."""
        last = (self._last + self._held).rstrip()
        while (start := _last_end(last)) and last.startswith(b":", start):
            last = last[:start].rstrip()
        return _LAST_ONE.match(last, start) is not None

    @property
    def early(self) -> str:
        """Return how it came to another one."""
        return "its stream ended early"

    @property
    def last(self) -> bytes:
        """Return what went out last."""
        return self._last

    @property
    def plausible(self) -> bool:
        """Say whether what came so far begins like an event stream."""
        return self._plausible

    def feed(self, piece: bytes) -> bytes:
        """Return what can go to the client now: everything up to the last end of an event."""
        data = self._held + piece if self._held else piece
        end = len(data) if data.endswith((b"\n\n", b"\r\n\r\n")) else _last_end(data)
        torn = end == 0 and len(data) > _MAX_HELD
        if torn:
            end = len(data)
        ready, self._held = data[:end], data[end:]
        if ready:
            self._plausible = self._plausible or ready.lstrip().startswith(_STARTS)
            if torn or self._begun or not _is_comment(ready):
                self._last = self._begun + ready
            self._begun = self._last[:_BEGINNING] if torn else b""
        return ready

    def rest(self) -> bytes:
        """Return what was held back; called once, at the end of a stream."""
        return self._held


def _last_end(data: bytes) -> int:
    plain, windows = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, windows + 4 if windows >= 0 else 0)


def _is_comment(event: bytes) -> bool:
    return event.startswith(b":") and not _last_end(event.rstrip())
