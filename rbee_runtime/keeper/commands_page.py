"""The page of the documentation that lists the commands of rbee-keeper, made from its own command line."""

import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from rbee_runtime.keeper.cli import app
from rbee_runtime.keeper.exits import MEANINGS

_HEAD = """\
# Commands of rbee-keeper

`rbee-keeper COMMAND --help` says the same of one command. Results go to standard output; how far something is, gaps
and errors go to standard error, an error as one sentence. A table is a table on a terminal, a line for each row in a
pipe.

Where the queen is and who asks stands before the command or in the environment: `--url` (`RBEE_URL`), `--api-key`
(`RBEE_API_KEY`), `--api-key-file` (`RBEE_API_KEY_FILE`), `--ca` (`RBEE_CA`). A queen of this machine needs none.

This page is made from the code: `python -m rbee_runtime.keeper.commands_page >docs/keeper.md` in a checkout of rbee.
What to type when is in [operate](operate.md).
"""


def page() -> str:
    """Return the page."""
    commands = dict(_commands(get_command(app)))
    return "\n".join(
        (
            _HEAD,
            "| command | what it does |",
            "|---|---|",
            *(f"| `{_synopsis(name, command)}` | {_text(command.help)} |" for name, command in commands.items()),
            "",
            "## Options",
            "",
            "| option | of | means |",
            "|---|---|---|",
            *_options(commands),
            "",
            "## Exit status",
            "",
            "| status | means |",
            "|---|---|",
            *(f"| {status} | {meaning} |" for status, meaning in MEANINGS.items()),
            "",
        )
    )


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command by what is typed for it, in the order of the help."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _synopsis(name: str, command: Any) -> str:
    words = [each for each in command.params if each.param_type_name == "argument"]
    return " ".join((name, *(_word(each) if each.required else f"[{_word(each)}]" for each in words)))


def _word(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _options(commands: dict[str, Any]) -> Iterator[str]:
    """Yield a row for each option, and the commands that have it with the same meaning."""
    owners: dict[tuple[str, str], list[str]] = {}
    for name, command in commands.items():
        for each in command.params:
            if each.param_type_name == "option" and "--help" not in each.opts:
                owners.setdefault((_spelt(each), _text(each.help)), []).append(name)
    for (spelt, text), names in owners.items():
        few = ", ".join(names) if len(names) <= len(commands) // 2 else "most commands"
        yield f"| `{spelt}` | {few} | {text} |"


def _spelt(option: Any) -> str:
    takes = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return f"{'`, `'.join(option.opts)}{takes}" if not option.secondary_opts else "`, `".join(_both(option))


def _both(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).rstrip(".").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
