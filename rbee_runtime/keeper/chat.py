"""Chat in the terminal: one answer, or a conversation."""

import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from rbee_runtime.errors import ConfigError, QueenCallError
from rbee_runtime.keeper.client import Piece, QueenClient, Row
from rbee_runtime.keeper.views import printable

_FILE = "file:"
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+|\.\.+")
_LETTERS = 64
"""As many as a part of a model's name may have."""


def choose_model(client: QueenClient) -> str:
    """Return the first model that is ready, else the first one that is served."""
    rows = client.served_models()
    if not rows:
        raise QueenCallError(
            "the queen serves no model that this key may use; add one to the inventory and deploy, "
            "or give the queen of this machine a file: rbee-keeper chat --model file:/path.gguf"
        )
    ready = [row for row in rows if row.get("state", "ready") == "ready"]
    return str((ready or rows)[0]["id"])


def declared(client: QueenClient, text: str) -> str:
    """Have the queen of this machine serve a file, unless `text` is the name of a model, and return its name.

    `text` is `file:PATH` or `NAME=file:PATH`; a relative path is one from here.
    """
    name, source = named(text)
    if source:
        client.declare(name, source)
    return name


def named(text: str) -> tuple[str, str]:
    """Return the name and the source that `--model` says, "" for no source, or raise ConfigError."""
    given, separator, written = text.partition("=") if not text.startswith(_FILE) else ("", "=", text)
    if not separator:
        return given, ""
    if not written.startswith(_FILE):
        return given, written
    path = Path(written.removeprefix(_FILE)).expanduser().absolute()
    name = given or _NO_NAME.sub("-", path.stem).strip("-._")[:_LETTERS]
    if not name:
        raise ConfigError(f"--model {text!r} gives the model no name: write NAME={_FILE}{path}")
    return name, f"{_FILE}{path}"


def show_answer(
    pieces: Iterable[Piece], out: TextIO, *, clock: Callable[[], float] = time.monotonic
) -> tuple[str, str]:
    """Print an answer as it comes and return it with one line about its speed."""
    start, first, last, count, said = clock(), 0.0, 0.0, 0, list[str]()
    for piece in pieces:
        count = piece.tokens if piece.tokens is not None else count + bool(piece.text)
        if not piece.text:
            continue
        last = clock()
        first = first or last
        said.append(piece.text)
        out.write(printable(piece.text))
        out.flush()
    out.write("\n")
    return "".join(said), speed(count, first - start, last - first)


def speed(tokens: int, wait: float, seconds: float) -> str:
    """Return `12 tokens, 34.5 tokens/s, first after 0.20 s`; the rate leaves out the wait for the first token."""
    if tokens == 0:
        return "no tokens"
    rate = f", {(tokens - 1) / seconds:.1f} tokens/s" if tokens > 1 and seconds > 0 else ""
    return f"{tokens} tokens{rate}, first after {wait:.2f} s"


def converse(client: QueenClient, model: str, ask: Callable[[str], str]) -> None:
    """Take turns until the end of input; Ctrl-C ends an answer early and keeps the conversation."""
    messages: list[Row] = []
    sys.stderr.write(f"chat with {model}; end with Ctrl-D\n")
    while True:
        try:
            prompt = ask("> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        if not prompt:
            continue
        messages.append({"role": "user", "content": prompt})
        try:
            text, line = show_answer(client.chat(model, messages), sys.stdout)
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": text})
        sys.stderr.write(f"[{line}]\n")
