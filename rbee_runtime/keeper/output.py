"""How commands print: a table for people, one line for each row in a pipe, or JSON; and whom they ask."""

import json
import sys
from typing import Annotated, Any

import typer

from rbee_runtime.keeper.client import QueenClient, Row
from rbee_runtime.keeper.settings import Settings

MOST_LETTERS = 100_000
"""Of a row that goes into a file or a pipe, far above any real one."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def settings_of(context: typer.Context) -> Settings:
    """Return where the queen is, as the options before the command say."""
    found: Settings = context.obj()
    return found


def list_rows(context: typer.Context, kind: str, as_json: bool) -> None:
    """Ask for rows of one kind and print them."""
    with QueenClient(settings_of(context)) as client:
        rows = client.rows(kind)
    show_rows(kind, rows, as_json)


def show_rows(kind: str, rows: list[Row], as_json: bool) -> None:
    """Print rows in the form that was asked for."""
    if as_json:
        print_json(rows)
    else:
        print_table(kind, rows)


def say(found: Row, sentence: str, as_json: bool) -> None:
    """Print what the queen answered, or what that means for a person."""
    if as_json:
        print_json(found)
    else:
        typer.echo(sentence)


def print_json(found: Any) -> None:
    """Print what the queen said."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


def print_table(kind: str, rows: list[Row]) -> None:
    """Print a table, or that there is nothing."""
    if not rows:
        typer.echo(f"no {kind}")
        return
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import

    from rbee_runtime.keeper.views import table  # noqa: PLC0415 - brings rich

    if sys.stdout.isatty():
        Console().print(table(kind, rows))
        return
    # Piped output is for grep: a line per row, whatever its length.
    console = Console(width=MOST_LETTERS)
    with console.capture() as text:
        console.print(table(kind, rows))
    for line in text.get().splitlines():
        typer.echo(line.rstrip())
