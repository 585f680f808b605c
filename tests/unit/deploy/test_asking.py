"""A purge asks, and only one answer removes anything."""

import io
import sys
from collections.abc import Callable

import pytest

from rbee_deploy.asking import agreed


def raising(error: type[BaseException]) -> Callable[[str], str]:
    def answer(_question: str) -> str:
        raise error

    return answer


ANSWERS: dict[str, tuple[Callable[[str], str], bool]] = {
    "yes": (lambda _: " yes ", True),
    "anything else": (lambda _: "y", False),
    "the end of the input": (raising(EOFError), False),
    "an interrupt": (raising(KeyboardInterrupt), False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_only_a_yes_is_a_yes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C and Ctrl-D say no, like any other word."""
    answer, wanted = ANSWERS[name]
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", answer)
    assert agreed("Remove it?") is wanted
