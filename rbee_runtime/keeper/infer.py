"""`rbee-keeper infer`: one prompt, the answer on standard output as it comes, for people and for scripts."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, TextIO

import typer

from rbee_runtime.errors import ConfigError
from rbee_runtime.keeper import completion as known
from rbee_runtime.keeper.client import Piece, QueenClient, Row
from rbee_runtime.keeper.output import print_json, settings_of

Temperature = Annotated[float | None, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="End the answer after so many tokens.")]


@dataclass
class Answer:
    """One answer: its text, why it ended, tokens and seconds; `first` is seconds until the first text."""

    text: list[str] = field(default_factory=list)
    finish: str = ""
    tokens: int = 0
    prompt_tokens: int | None = None
    first: float | None = None
    seconds: float = 0.0

    def row(self, model: str) -> Row:
        """Return it as a program reads it."""
        return {
            "model": model,
            "text": "".join(self.text),
            "finish_reason": self.finish,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "seconds": round(self.seconds, 3),
            "first_text_seconds": None if self.first is None else round(self.first, 3),
        }


def infer(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", autocompletion=known.models)],
    prompt: Annotated[str, typer.Argument(help="What to say; without it standard input.")] = "",
    system: Annotated[str, typer.Option(help="Instructions before the prompt.")] = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its numbers as JSON.")] = False,
) -> None:
    """Answer one prompt and end; Ctrl-C closes the stream, so that the worker has its place free again."""
    messages = said(system, prompt or piped())
    with QueenClient(settings_of(context)) as client:
        pieces = client.chat(model, messages, **given(max_tokens=max_tokens, temperature=temperature))
        answer = taken(pieces, None if as_json else sys.stdout)
    if as_json:
        print_json(answer.row(model))


def said(system: str, prompt: str) -> list[Row]:
    """Return the messages of one request, or raise ConfigError if there is nothing to say."""
    if not prompt.strip():
        raise ConfigError("there is nothing to say: give a PROMPT, or text on standard input")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def piped() -> str:
    """Return standard input if it is no terminal, or raise ConfigError for what is not text."""
    if sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError("what came on standard input is not text in UTF-8") from error


def taken(pieces: Iterable[Piece], out: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> Answer:
    """Return an answer once it is whole; with `out` it is written there as it comes."""
    from rbee_runtime.keeper.views import printable  # noqa: PLC0415 - brings rich

    answer, start = Answer(), clock()
    for piece in pieces:
        _add(answer, piece, clock() - start)
        if out is not None and piece.text:
            out.write(printable(piece.text) if out.isatty() else piece.text)
            out.flush()
    answer.seconds = clock() - start
    if out is not None:
        out.write("\n")
    return answer


def _add(answer: Answer, piece: Piece, now: float) -> None:
    if piece.text:
        answer.text.append(piece.text)
        answer.first = now if answer.first is None else answer.first
    answer.tokens = piece.tokens if piece.tokens is not None else answer.tokens + bool(piece.text)
    answer.prompt_tokens = piece.prompt_tokens if piece.prompt_tokens is not None else answer.prompt_tokens
    answer.finish = piece.finish or answer.finish


def given(**options: Any) -> Row:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}
