"""How many tokens an answer cost, found in its bytes without reading the rest of them."""

import re
from typing import Final

import msgspec

from rbee_runtime.protocol import decode

HEADER: Final = b"x-rbee-usage"
"""With this header a worker of ours tells the tokens of every stream, whether or not its client wants to know."""

ASKED: Final = HEADER + b": 1\r\n"

EACH: Final = b"each"
"""As the value of that header: it tells after each piece how many tokens its stream has by now, too."""

ASKED_EACH: Final = HEADER + b": " + EACH + b"\r\n"

GOES_ON: Final = b"x-rbee-goes-on"
"""With this header a worker says that its answer is the rest of a text: one of an older release would begin anew."""

_TOLD = re.compile(rb"(?:\A|(?<=\n\n)): usage (\d{1,12}) (\d{1,12})\n\n")
_HINT = b": usage "
_PRODUCED = re.compile(rb": produced (\d{1,9})")
_LAST = re.compile(rb'"usage":(\{(?:[^{}]|\{[^{}]*\})*\})')
_IN_SIGHT = 4096
"""Bytes from the end of a stream in which its usage is looked for."""

Tokens = tuple[int, int]
"""Of the prompt and of the answer."""


class _Counts(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> Tokens:
        return self.prompt_tokens or self.input_tokens, self.completion_tokens or self.output_tokens


class _Whole(msgspec.Struct):
    usage: _Counts | None = None


_WHOLE = msgspec.json.Decoder(_Whole)


def of_answer(data: bytes) -> tuple[bool, Tokens | None]:
    """Return whether these bytes are JSON, and the tokens in it, None if it does not say."""
    try:
        usage = _WHOLE.decode(data).usage
    except msgspec.ValidationError:
        return True, None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False, None
    return True, usage.tokens if usage is not None else None


def telling(tokens: Tokens) -> bytes:
    """Return the line in which a worker tells the tokens, just before its last events; to clients it is a comment."""
    return b": usage %d %d\n\n" % tokens


def producing(tokens: int) -> bytes:
    """Return the line in which a worker tells how many tokens its stream has by now."""
    return b": produced %d\n\n" % tokens


def produced(line: bytes) -> int:
    """Return how many tokens a comment says that its stream has by now, 0 if it says nothing of that."""
    found = _PRODUCED.fullmatch(line)
    return int(found[1]) if found is not None else 0


def told(events: bytes) -> tuple[bytes, Tokens | None]:
    """Return events without the line in which a worker of ours tells the tokens, and what it says."""
    if _HINT not in events:
        return events, None
    found = _TOLD.search(events)
    if found is None:
        return events, None
    return events[: found.start()] + events[found.end() :], (int(found[1]), int(found[2]))


def at_the_end(events: bytes) -> Tokens | None:
    """Return the tokens that the last events of a stream tell, None if they do not."""
    found = _LAST.findall(events[-_IN_SIGHT:])
    try:
        return decode(found[-1], _Counts).tokens if found else None
    except msgspec.DecodeError:
        return None
