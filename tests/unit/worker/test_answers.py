"""From tokens to pieces of text, to an end."""

import pytest

from rbee_runtime.worker.engines import Finish, TokenLogprob
from rbee_runtime.worker.engines.llamacpp.answers import Answer, Said

END = 0
BEE = "🐝".encode()


class Words:
    """Token 0 ends; the others are these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = (b"", *pieces)

    def piece_of(self, token: int) -> bytes:
        return self._pieces[token]

    def ends(self, token: int) -> bool:
        return token == END


def said(*pieces: bytes, stop: tuple[str, ...] = (), room: int = 100, probable: bool = False) -> list[Said]:
    """Return what these pieces bring, then the end if there was none."""
    answer = Answer(Words(*pieces), stop=stop, room=room)
    tokens = [*range(1, len(pieces) + 1), END]
    logprobs = [TokenLogprob(piece, -1.0) if probable else None for piece in (*pieces, b"")]
    pairs = zip(tokens, logprobs, strict=True)
    return [answer.take(token, logprob) for token, logprob in pairs if answer.finish is None]


@pytest.mark.parametrize(
    ("pieces", "stop", "room", "texts", "finish"),
    [
        ((b"a", b"b"), (), 9, ["a", "b", ""], Finish.STOP),
        ((b"a", b"b"), (), 2, ["a", "b"], Finish.LENGTH),
        ((b"a", b"bST", b"OPc"), ("STOP",), 9, ["a", "b", ""], Finish.STOP),
        ((b"a", b"ST", b"x"), ("STOP",), 9, ["a", "", "STx", ""], Finish.STOP),
        ((b"a", b"ST"), ("STOP",), 2, ["a", "ST"], Finish.LENGTH),
        ((BEE[:2], BEE[2:]), (), 9, ["", "🐝", ""], Finish.STOP),
        ((BEE[:2],), (), 1, ["\ufffd"], Finish.LENGTH),
        ((b"x", b"y"), ("y",), 2, ["x", ""], Finish.STOP),
    ],
)
def test_text_comes_when_it_is_certain(
    pieces: tuple[bytes, ...], stop: tuple[str, ...], room: int, texts: list[str], finish: Finish
) -> None:
    """Characters are whole, stop sequences are never shown, and nothing is lost at the end."""
    out = said(*pieces, stop=stop, room=room)
    assert [each.text for each in out] == texts
    assert [each.finish for each in out] == [None] * (len(out) - 1) + [finish]


def test_log_probabilities_come_with_their_text() -> None:
    """A token whose text is held back holds back its probability, and what a stop sequence took never comes."""
    out = said(b"a", b"S", b"x", BEE[:2], BEE[2:], b"STOP", stop=("STOP",), probable=True)
    assert [[each.piece for each in step.logprobs] for step in out] == [
        [b"a"],
        [],
        [b"S", b"x"],
        [],
        [BEE[:2], BEE[2:]],
        [],
    ]


def test_the_last_log_probability_is_not_lost() -> None:
    """Text that is given out at the end brings its tokens."""
    out = said(b"a", BEE[:2], room=2, probable=True)
    assert [each.piece for each in out[-1].logprobs] == [BEE[:2]]
