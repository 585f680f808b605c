"""The exit statuses of every command, from one table."""

import json

import pytest
import typer
from typer.main import get_command

from rbee_runtime.keeper.cli import app
from rbee_runtime.keeper.exits import MEANINGS, Exit
from tests.unit.keeper.stand_in import TABLES, StandIn, chat_stream
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

COMMANDS: dict[str, tuple[str, ...]] = {
    "status": (),
    "hives": (),
    "workers": (),
    "devices": (),
    "worker": ("toy-1",),
    "logs": ("toy-1",),
    "events": (),
    "chat": ("toy", "hi"),
    "infer": ("toy", "hi"),
    "bench": ("toy", "--requests", "1"),
    "top": ("--once",),
    "usage": (),
    "drain": ("gpu1",),
    "undrain": ("gpu1",),
    "explain": ("toy",),
    "move": ("toy-1",),
    "models": (),
    "models ls": (),
    "models load": ("toy", "--no-wait"),
    "models unload": ("toy",),
    "models pull": ("toy", "--hive", "gpu1", "--no-wait"),
    "models rm": ("toy",),
    "models verify": ("toy", "--hive", "gpu1"),
    "keys create": ("bob",),
    "keys list": (),
    "keys revoke": ("abcdefgh",),
}
"""Each command that asks a queen, and the least that has to be typed for it."""

HERE = {"completion", "start-queen", "stop-queen"}
"""Those that ask none."""

NO_JSON = {"chat", "logs"}
"""A conversation, and lines that somebody else wrote."""

TELLS = {"models verify"}
"""Those that say what they begin with."""


def typed(command: str) -> list[str]:
    return [*command.split(), *COMMANDS[command]]


def test_every_command_is_in_the_table() -> None:
    """A new command fails here until somebody says how it is typed; each has a sentence and, but for two, `--json`."""
    found: set[str] = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help
        below = getattr(command, "commands", {})
        found |= {f"{name} {each}" for each in below} or {name}
        for each in below.values() or [command]:
            options = {option for parameter in each.params for option in parameter.opts}
            assert ("--json" in options) is (each.name not in NO_JSON | {"completion", "start-queen"})
    assert found == COMMANDS.keys() - {"models"} | HERE
    assert set(MEANINGS) == set(Exit)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_0_for_what_was_done(
    keeper: Keeper, queen: StandIn, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """And whatever is printed as JSON is some."""
    queen.stream = chat_stream("ok", tokens=1)
    monkeypatch.setitem(TABLES, "verify", {"name": "toy", "intact": True})
    status, out, _ = keeper(*typed(command))
    assert (status, bool(out.strip())) == (Exit.DONE, True)
    if command not in NO_JSON:
        lines = keeper(*typed(command), "--json")[1]
        assert json.loads(lines.splitlines()[0] if command == "events" else lines) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_1_for_what_the_fleet_refuses(keeper: Keeper, command: str) -> None:
    """One sentence on stderr and nothing else, as for a key that it does not know."""
    status, out, err = keeper("--api-key", "wrong", *typed(command))
    assert (status, out, err.count("\n")) == (Exit.FAILED, "", 1 + (command in TELLS))
    assert err.splitlines()[-1].startswith("rbee-keeper: the queen at ")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_2_for_a_wrong_command_line(keeper: Keeper, queen: StandIn, command: str) -> None:
    """Nobody is asked anything."""
    status, out, err = keeper(*typed(command), "--no-such-option")
    assert (status, out, err.count("\n"), queen.calls) == (Exit.USAGE, "", 1, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_3_for_a_queen_out_of_reach(keeper: Keeper, command: str) -> None:
    """The sentence names the address and how to start one."""
    status, out, err = keeper("--url", "http://127.0.0.1:1", *typed(command))
    assert (status, out, err.count("\n")) == (Exit.UNREACHABLE, "", 1 + (command in TELLS))
    assert err.splitlines()[-1].startswith("rbee-keeper: no queen at http://127.0.0.1:1: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_130_for_ctrl_c(keeper: Keeper, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Wherever it is when that comes, and without a word."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("httpx.Client.send", interrupted)
    status, out, err = keeper(*typed(command))
    assert (status, out, "Traceback" in err) == (Exit.INTERRUPTED, "", False)


def test_an_exit_that_typer_asks_for_is_kept(keeper: Keeper) -> None:
    """`--help` of any command is done."""
    assert typer.Exit().exit_code == keeper("models", "--help")[0] == Exit.DONE
