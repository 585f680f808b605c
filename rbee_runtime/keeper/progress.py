"""How far something is, as a person sees it: a bar where standard error is a terminal, else a line for each change."""

import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rbee_runtime.keeper.views import printable

EACH_SHARE = 10
"""Percent; a log of a long download has a line for so many."""


@dataclass(frozen=True)
class Step:
    """How far it is: `text` changes with its state, `numbers` all the time; bytes, `total` 0 while unknown."""

    text: str
    done: int = 0
    total: int = 0
    numbers: str = ""

    @property
    def line(self) -> str:
        """Return it as one line."""
        return printable(" ".join(filter(None, (self.text, self.numbers))).replace("\n", " "))

    @property
    def share(self) -> int:
        """Return how many percent are done."""
        return 100 * self.done // self.total if self.total else 0


class Meter:
    """Shows steps on `out` until the block ends; standard output stays free for the result."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._bar = _bar(self._out) if self._out.isatty() else None
        self._task = self._bar.add_task("", total=None) if self._bar is not None else None
        self._told: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: Step) -> None:
        """Show how far it is now."""
        if self._bar is not None and self._task is not None:
            total = step.total or None
            self._bar.update(self._task, description=step.line, completed=step.done, total=total)
            return
        mark = (step.text, step.share // EACH_SHARE)
        if mark != self._told:
            self._out.write(f"{step.line}\n")
            self._out.flush()
        self._told = mark


def _bar(out: TextIO) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
    return Progress(*columns, console=Console(file=out), transient=True)
