"""Tokens to text: whole characters, and stop sequences that never show."""

import pytest

from rbee_runtime.worker.engines.text import TextStream

TEXT = "naïve 🐝 bees — 蜂蜜"


def shown(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    parts = [stream.push(piece) for piece in pieces]
    return [*parts, stream.finish()], stream.stopped


def test_every_part_is_whole_characters() -> None:
    """One byte per token gives the same text, and no part holds half a character."""
    parts, _ = shown([bytes([byte]) for byte in TEXT.encode()])
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)


def test_an_answer_cut_within_a_character_shows_one_replacement() -> None:
    """Bytes that never become a character end as U+FFFD, not as an error."""
    parts, _ = shown(["🐝".encode()[:2]])
    assert "".join(parts) == "\ufffd"


@pytest.mark.parametrize(
    ("pieces", "stop", "text", "stopped"),
    [
        pytest.param(["one ", "END", " two"], ("END",), "one ", True, id="whole token"),
        pytest.param(["one E", "N", "D two"], ("END",), "one ", True, id="over three tokens"),
        pytest.param(["one EN", "o"], ("END",), "one ENo", False, id="began but was none"),
        pytest.param(["one EN"], ("END",), "one EN", False, id="began and the answer ended"),
        pytest.param(["a b c"], ("c", "b"), "a ", True, id="the earliest one counts"),
        pytest.param(["aa", "ab"], ("aab",), "a", True, id="overlaps with itself"),
        pytest.param(["x\n", "\ny"], ("\n\n",), "x", True, id="line breaks"),
        pytest.param(["蜂", "蜜"], ("蜂蜜",), "", True, id="several bytes per character"),
        pytest.param(["plain"], (), "plain", False, id="no stop sequence"),
    ],
)
def test_stop_sequences_never_show(pieces: list[str], stop: tuple[str, ...], text: str, stopped: bool) -> None:
    """Neither a stop sequence nor a part of it gets out, however the tokens split it."""
    parts, was_stopped = shown([piece.encode() for piece in pieces], stop)
    assert ("".join(parts), was_stopped) == (text, stopped)


def test_text_after_a_stop_sequence_is_dropped() -> None:
    """What the model says after the stop sequence is not shown."""
    stream = TextStream(("END",))
    assert stream.push(b"xEND") == "x"
    assert stream.push(b"more") == ""
    assert stream.finish() == ""


def test_text_is_not_held_back_longer_than_needed() -> None:
    """Text that cannot begin a stop sequence goes out with its own token."""
    stream = TextStream(("END",))
    assert stream.push(b"go on") == "go on"
    assert stream.push(b" E") == " "
    assert stream.push(b"x") == "Ex"
