"""Ctrl-C while a program still imports, before it has its own answer to it.

It imports nothing that Python has not at its start: signal, contextlib and typing would take 14 milliseconds more, in
which Ctrl-C is a traceback.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
"""True for type checkers, as that of typing; for programs that import nothing before this."""

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import NoReturn
else:
    import _signal as signal

STATUS = 130
"""What a shell reports for a command that SIGINT ended."""


class EndsAtOnce:
    """Lets SIGINT end the process with `sentence` on stderr while the block, which imports and no more, runs.

    KeyboardInterrupt would not do: raised inside the import machinery it may be printed and ignored.
    """

    def __init__(self, sentence: str = "", status: int = STATUS) -> None:
        self._sentence = sentence
        self._status = status
        self._ours = False

    def __enter__(self) -> None:
        # Whoever started it in the background had it ignored.
        self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._leave)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _leave(self, _number: int, _frame: FrameType | None) -> NoReturn:
        os.write(2, f"{self._sentence}\n".encode())
        os._exit(self._status)


def run(load: Callable[[], Callable[[], int]], sentence: str = "", status: int = STATUS) -> int:
    """Return the exit status of the program that `load` imports; Ctrl-C at any time is `sentence` and `status`."""
    try:
        with EndsAtOnce(sentence, status):
            program = load()
        return program()
    except KeyboardInterrupt:
        sys.stderr.write(f"{sentence}\n")
        return status
