"""One answer in the making: from sampled tokens to pieces of text, until an end."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rbee_runtime.worker.engines import Finish, TokenLogprob
from rbee_runtime.worker.engines.text import TextStream


class Vocabulary(Protocol):
    """What an answer asks about tokens."""

    def piece_of(self, token: int) -> bytes:
        """Return the bytes of a token."""

    def ends(self, token: int) -> bool:
        """Say whether a token ends the answer."""


class Words:
    """A vocabulary in which some control tokens are text."""

    def __init__(self, vocabulary: Vocabulary, shown: Mapping[int, bytes]) -> None:
        self._vocabulary = vocabulary
        self._shown = shown

    def piece_of(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return self._shown.get(token) or self._vocabulary.piece_of(token)

    def ends(self, token: int) -> bool:
        """Say whether a token ends the answer."""
        return self._vocabulary.ends(token)


@dataclass(frozen=True, slots=True)
class Said:
    """What became certain with one token."""

    text: str
    finish: Finish | None
    logprobs: tuple[TokenLogprob, ...] = ()


class Answer:
    """Counts and words of one choice; `room` is how many tokens it may have."""

    def __init__(self, vocabulary: Vocabulary, *, stop: tuple[str, ...], room: int) -> None:
        self._vocabulary = vocabulary
        self._text = TextStream(stop)
        self._room = room
        self._due: deque[tuple[int, TokenLogprob]] = deque()
        self._bytes = self._shown = 0
        self.produced = 0
        self.finish: Finish | None = None

    def take(self, token: int, logprob: TokenLogprob | None = None) -> Said:
        """Return what `token` makes certain; `finish` of it when the answer is over."""
        if self._vocabulary.ends(token):
            return self._end(Finish.STOP, "")
        self.produced += 1
        piece = self._vocabulary.piece_of(token)
        if logprob is not None:
            self._bytes += len(piece)
            self._due.append((self._bytes, logprob))
        text = self._text.push(piece)
        if self._text.stopped:
            return self._end(Finish.STOP, text)
        if self.produced >= self._room:
            return self._end(Finish.LENGTH, text)
        return Said(text, None, self._released(text))

    def _end(self, finish: Finish, text: str) -> Said:
        text += self._text.finish()
        self.finish = Finish.STOP if self._text.stopped else finish
        return Said(text, self.finish, self._released(text))

    def _released(self, text: str) -> tuple[TokenLogprob, ...]:
        """Return the log probabilities of the tokens whose text is out by now."""
        if not self._due and not self._bytes:
            return ()
        self._shown += len(text.encode("utf-8", "surrogatepass"))
        out = []
        whole = self.finish is not None and not self._text.stopped
        while self._due and (whole or self._due[0][0] <= self._shown):
            out.append(self._due.popleft()[1])
        return tuple(out)
