"""The page of the documentation that lists the commands of rbee-deploy, made from its own parsers."""

import argparse
import sys
from collections.abc import Iterator, Mapping

from rbee_deploy.cli import parser
from rbee_deploy.cli.arguments import EXITS

_HEAD = """\
# Commands of rbee-deploy

`rbee-deploy COMMAND --help` says the same of one command. Results go to standard output, the report of what was done on
which host goes to standard error: one line for each host and stage. Nothing asks questions but `purge`, unless it is
given `--yes`. The commands of `rbee-keeper` are in [keeper](keeper.md).

With `--json`, standard output is one document and nothing else, also of a run that fails or is refused:

    {"command": "lock", "status": 0, "problem": null, "advice": null, "stages": [], "result": {"hosts": []}}

`status` is the exit status, `problem` what failed and where, `advice` what to do where `problem` does not say that,
`stages` the report as rows of `host`, `stage`, `seconds`, `verdict`, `notes`, and `result` what was found out or made:
pyinfra's own `plan` and `results` of `apply` and `preseed`, its `plan` of `plan` and `check`, a row for each host of
`status`, for each event of `audit`.

This page is made from the code: `python -m rbee_deploy.commands_page >docs/commands.md` in a checkout of rbee.
"""

_EXITS = """\
## Exit status

| status | of | means |
|---|---|---|"""


def page() -> str:
    """Return the page."""
    commands = _commands()
    return "\n".join(
        (
            _HEAD,
            "| command | what it does |",
            "|---|---|",
            *(f"| `{_synopsis(name, command)}` | {command.description} |" for name, command in commands.items()),
            "",
            "## Options",
            "",
            "| option | of | means |",
            "|---|---|---|",
            *_options(commands),
            "",
            _EXITS,
            *_exits(commands),
            "",
        )
    )


def _commands() -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of every command, by its name and in the order of the help."""
    (family,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    found: dict[str, argparse.ArgumentParser] = family.choices
    return found


def _actions(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in command._actions if not isinstance(action, argparse._HelpAction)]  # noqa: SLF001


def _synopsis(name: str, command: argparse.ArgumentParser) -> str:
    """Return what has to be typed at least, and which words may follow."""
    words = [_spelt(action) for action in _actions(command) if action.required and action.option_strings]
    rest = [_word(action) for action in _actions(command) if not action.option_strings]
    return " ".join((name, *rest, *words))


def _word(action: argparse.Action) -> str:
    text = str(action.metavar or action.dest.upper())
    many = {"*": f"[{text}…]", "?": f"[{text}]", "+": f"{text}…"}
    return many.get(str(action.nargs), text)


def _spelt(action: argparse.Action) -> str:
    """Return an option as it is typed, by its short name if it has one."""
    takes = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return f"{action.option_strings[0]}{takes}"


def _options(commands: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Yield a row for each option, and the commands that have it with the same meaning."""
    owners: dict[tuple[str, str], list[str]] = {}
    for name, command in commands.items():
        for action in _actions(command):
            spelt = _spelt(action) if action.option_strings else _word(action)
            owners.setdefault((spelt, (action.help or "") % vars(action)), []).append(name)
    for (spelt, text), names in owners.items():
        few = "every command" if len(names) == len(commands) else ", ".join(names)
        yield f"| `{spelt}` | {few} | {text} |"


def _exits(commands: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Yield a row for each exit status, the ones of single commands last."""
    for status, text in EXITS.items():
        yield f"| {status} | every command | {text} |"
    for name, command in commands.items():
        for status, text in (command.get_default("exits") or {}).items():
            yield f"| {status} | {name} | {text} |"


if __name__ == "__main__":
    sys.stdout.write(page())
