"""Ctrl-C while a program still imports, before it has its own answer to it."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STATUS = 130
"""What a shell reports for a command that SIGINT ended."""


@contextmanager
def ends_at_once(sentence: str = "", status: int = STATUS) -> Iterator[None]:
    """Let SIGINT end the process with `sentence` on stderr while the block, which imports and no more, runs.

    KeyboardInterrupt would not do: raised inside the import machinery it may be printed and ignored.
    """

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        os.write(2, f"{sentence}\n".encode())
        os._exit(status)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        # Whoever started it in the background had it ignored.
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(load: Callable[[], Callable[[], int]], sentence: str = "", status: int = STATUS) -> int:
    """Return the exit status of the program that `load` imports; Ctrl-C at any time is `sentence` and `status`."""
    try:
        with ends_at_once(sentence, status):
            program = load()
        return program()
    except KeyboardInterrupt:
        sys.stderr.write(f"{sentence}\n")
        return status
