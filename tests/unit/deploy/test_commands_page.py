"""The page of commands: made from the parsers that read the command line, and committed as it is made."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
from pathlib import Path

import pytest

from rbee_deploy import commands_page
from rbee_deploy.cli import applying, parser

PAGE = Path(__file__).parents[3] / "docs" / "commands.md"


def test_the_committed_page_is_made_from_the_parsers() -> None:
    """docs/commands.md is what `python -m rbee_deploy.commands_page` prints, and short."""
    assert PAGE.read_text(encoding="utf-8") == commands_page.page()
    assert len(commands_page.page().splitlines()) <= 100


def test_every_command_and_option_is_in_it() -> None:
    """Whatever the command line takes has a row; no row is without a meaning."""
    page = commands_page.page()
    (family,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in family.choices.items():
        assert f"| `{name}" in page
        for action in command._actions:
            assert set(action.option_strings) <= {"-h", "--help"} or action.option_strings[0] in page
    assert not [line for line in page.splitlines() if line.endswith("|  |")]


@pytest.mark.parametrize(("status", "of"), [(0, "every command"), (applying.DRIFT, "check")])
def test_exit_statuses_are_in_it(status: int, of: str) -> None:
    """Statuses of all commands and those of single ones are told apart."""
    assert f"| {status} | {of} |" in commands_page.page()
