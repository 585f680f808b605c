"""From token pieces to text that may be shown: whole characters, and nothing of a stop sequence."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Collects the bytes of tokens and gives out what is certain.

    A character whose bytes are spread over tokens waits for its last byte; text that may become a stop sequence waits
    until it is one or is not. `stopped` is true once a stop sequence appeared; it and what follows are dropped.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Take the bytes of one token and return the text that became certain."""
        return self._advance(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back; incomplete characters become U+FFFD."""
        text = self._advance(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _advance(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        pending = self._held + text
        found = [index for index in (pending.find(sequence) for sequence in self._stop) if index >= 0]
        if found:
            self.stopped, self._held = True, ""
            return pending[: min(found)]
        keep = max((overlap(pending, sequence) for sequence in self._stop), default=0)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]


def overlap(text: str, sequence: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `sequence`."""
    longest = min(len(text), len(sequence) - 1)
    return next((size for size in range(longest, 0, -1) if sequence.startswith(text[-size:])), 0)
