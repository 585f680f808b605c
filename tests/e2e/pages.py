"""Pages for operators as a list of things to do: what they need, what is typed, and what that has to print."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^ *```(?P<kind>\S*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
ITEM = re.compile(rf"^<!-- (?P<word>needs|on): (?P<value>[^\n]+) -->$|{FENCE.pattern}", re.DOTALL | re.MULTILINE)
BLANKS = r"[ \t]+"
STATUS = re.compile(r"^exit status (\d+)$")
ANY = "…"
"""Stands for any text within a line; alone on a line, for any number of lines."""


@dataclass(frozen=True)
class Need:
    """A state of the fleet that the page takes for granted from here on."""

    state: str


@dataclass(frozen=True)
class Block:
    """Commands as they stand in the page; `host` is where they are typed, "" for the operator's own machine."""

    line: int
    script: str
    result: str
    host: str = ""

    @property
    def status(self) -> int:
        """Return the exit status that the page states, 0 if it states none."""
        return next((int(found[1]) for line in self.result.splitlines() if (found := STATUS.match(line))), 0)

    @property
    def expected(self) -> re.Pattern[str]:
        """Return what the output has to match as a whole; how many blanks there are does not matter."""
        lines = [line for line in self.result.splitlines() if not STATUS.match(line)]
        return re.compile("".join(map(_line, lines)))


def _line(line: str) -> str:
    if line.strip() == ANY:
        return r"(?:[^\n]*\n)*?"
    words = (re.escape(word).replace(re.escape(ANY), r"[^\n]*?") for word in line.split())
    return rf"[ \t]*{BLANKS.join(words)}[ \t]*\n"


def read(page: Path) -> tuple[Need | Block, ...]:
    """Return what a page says, in its order; raise ValueError for commands without a stated result."""
    return tuple(_items(page.name, page.read_text(encoding="utf-8")))


def _items(name: str, text: str) -> Iterator[Need | Block]:
    host, typed = "", None
    for found in ITEM.finditer(text):
        word, kind = found["word"], found["kind"]
        if word == "needs":
            yield Need(found["value"])
        elif word == "on":
            host = found["value"]
        elif typed is not None and kind != "text":
            break
        elif kind == "sh":
            typed = Block(text.count("\n", 0, found.start()) + 1, found["text"], "", host)
        elif typed is not None:
            yield Block(typed.line, typed.script, found["text"], typed.host)
            host, typed = "", None
    if typed is not None:
        raise ValueError(f"{name}, line {typed.line}: no ```text block says what these commands print")


def said(output: str) -> str:
    """Return an output as it is compared: whole lines, no empty ones."""
    return "".join(f"{line}\n" for line in output.splitlines() if line.strip())
