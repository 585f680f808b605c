"""The page of the keeper's commands: made from its command line, and committed as it is made."""

from pathlib import Path

from rbee_runtime.keeper import commands_page
from rbee_runtime.keeper.exits import Exit
from tests.unit.keeper.test_exits import COMMANDS, HERE

PAGE = Path(__file__).parents[3] / "docs" / "keeper.md"


def test_the_committed_page_is_made_from_the_command_line() -> None:
    """docs/keeper.md is what `python -m rbee_runtime.keeper.commands_page` prints, and short."""
    assert PAGE.read_text(encoding="utf-8") == commands_page.page()
    assert len(commands_page.page().splitlines()) <= 100


def test_every_command_and_status_is_in_it() -> None:
    """None without its meaning."""
    page = commands_page.page()
    for name in {*COMMANDS, *HERE} - {"models"}:
        assert f"| `{name}" in page
    assert all(f"| {int(status)} | " in page for status in Exit)
    assert not [line for line in page.splitlines() if line.endswith("|  |")]
