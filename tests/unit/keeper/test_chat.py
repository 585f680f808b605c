"""Conversations in the terminal."""

import io
from collections.abc import Iterator

import pytest

from rbee_runtime.keeper.chat import converse, show_answer, speed
from rbee_runtime.keeper.client import Piece, Row


class Talker:
    """Answers with a number and remembers what it was told; `^C` in a prompt interrupts its answer."""

    def __init__(self) -> None:
        self.heard: list[list[Row]] = []

    def chat(self, _: str, messages: list[Row]) -> Iterator[Piece]:
        self.heard.append(list(messages))
        if messages[-1]["content"] == "^C":
            raise KeyboardInterrupt
        yield Piece(f"answer {len(self.heard)}", 2)


def test_a_conversation_remembers_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Each turn carries the turns before it; empty lines and interrupted answers are none."""
    prompts = iter(["one", "  ", "^C", "two"])

    def ask(_: str) -> str:
        try:
            return next(prompts)
        except StopIteration:
            raise EOFError from None

    talker = Talker()
    converse(talker, "toy", ask)  # type: ignore[arg-type]
    assert [turn["content"] for turn in talker.heard[-1]] == ["one", "answer 1", "two"]
    assert capsys.readouterr().out == "answer 1\n\nanswer 3\n\n"


@pytest.mark.parametrize(
    ("tokens", "seconds", "line"),
    [
        (0, 0.0, "no tokens"),
        (1, 0.0, "1 tokens, first after 0.50 s"),
        (11, 2.0, "11 tokens, 5.0 tokens/s, first after 0.50 s"),
    ],
)
def test_speed_leaves_out_the_wait(tokens: int, seconds: float, line: str) -> None:
    """The rate is of the tokens after the first."""
    assert speed(tokens, 0.5, seconds) == line


def test_speed_is_measured_between_first_and_last_text() -> None:
    """Three pieces at 1, 2 and 3 s after the question are two intervals."""
    times = iter([10.0, 11.0, 12.0, 13.0])
    pieces = [Piece("a"), Piece("b"), Piece("c"), Piece("", 3)]
    text, line = show_answer(pieces, io.StringIO(), clock=lambda: next(times))
    assert (text, line) == ("abc", "3 tokens, 1.0 tokens/s, first after 1.00 s")
