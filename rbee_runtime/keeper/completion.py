"""Completion in shells: commands from the program itself, names of the fleet from the queen if it answers."""

import os
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import httpx
import typer
from typer.completion import get_completion_inspect_parameters, shell_complete

from rbee_runtime.errors import RbeeError
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.settings import DEFAULT_URL, settle

PROGRAM = "rbee-keeper"
VARIABLE = "_RBEE_KEEPER_COMPLETE"
"""Tells the program that a shell asks for completion, and which one."""

PATIENCE = 0.4
"""Seconds; a person who presses Tab has no name of the fleet after that, and the shell is free again."""

Names = Callable[[typer.Context, str], list[str]]


class Shell(StrEnum):
    """Whose completion there is."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete commands and names: eval "$(rbee-keeper completion bash)"."""
    _know_shells()
    shell_complete(context.find_root().command, {}, PROGRAM, VARIABLE, f"source_{shell}")


def asked() -> bool:
    """Say whether a shell asks for completion and not a person for a command."""
    return VARIABLE in os.environ


def complete(app: typer.Typer) -> int:
    """Answer a shell; what goes wrong is no completion, and no word on the terminal that is being typed on."""
    _know_shells()
    try:
        app(prog_name=PROGRAM, standalone_mode=False)
    except SystemExit:
        pass
    except Exception:  # noqa: BLE001 - a person is in the middle of a line
        return 1
    sys.stdout.flush()
    return 0


def _know_shells() -> None:
    """Have typer's forms of the shells in force, as its own options for that would: they edit the files of a user."""
    get_completion_inspect_parameters()


def named(kind: str, field: str) -> Names:
    """Return what completes a name from the rows of one kind that the queen has."""

    def names(context: typer.Context, incomplete: str) -> list[str]:
        found = list[str]()
        # A host that swallows connections must not hold the shell up.
        asking = threading.Thread(target=_ask, args=(_options(context), kind, field, found), daemon=True)
        asking.start()
        asking.join(PATIENCE)
        return sorted(name for name in list(found) if name.startswith(incomplete))

    return names


hives = named("hives", "name")
workers = named("workers", "id")
models = named("models", "name")


def _options(context: typer.Context) -> dict[str, Any]:
    """Return what was typed before the command, or is in the environment."""
    return dict(context.find_root().params)


def _ask(options: dict[str, Any], kind: str, field: str, found: list[str]) -> None:
    try:
        settings = settle(
            options.get("url") or DEFAULT_URL,
            options.get("api_key") or "",
            options.get("api_key_file"),
            options.get("ca"),
        )
        with QueenClient(settings, timeout=httpx.Timeout(PATIENCE)) as client:
            found.extend(str(row.get(field, "")) for row in client.rows(kind))
    except RbeeError:
        return
