"""What Tab offers in bash, zsh and fish."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import typer

from rbee_runtime.keeper import completion
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

PROGRAM = Path(sys.executable).parent / "rbee-keeper"
TYPED = {
    "zsh": {"_TYPER_COMPLETE_ARGS": ""},
    "fish": {"_TYPER_COMPLETE_ARGS": "", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def offered(line: str, shell: str = "bash", **environment: str) -> str:
    """Return what the program answers to a shell in which `line` stands before the cursor."""
    asked = {name: line for name in TYPED.get(shell, {}) if name == "_TYPER_COMPLETE_ARGS"}
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}
    variables = {**TYPED.get(shell, words), **asked, "_RBEE_KEEPER_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [PROGRAM], env=os.environ | variables | environment, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("rbee-keeper ev", "events"),
        ("rbee-keeper models pu", "pull"),
        ("rbee-keeper models pull --hi", "--hive"),
        ("rbee-keeper completion z", "zsh"),
    ],
)
def test_commands_and_options_need_no_queen(shell: str, line: str, word: str) -> None:
    """Nobody listens, and every shell hears what it can type."""
    assert word in offered(line, shell, RBEE_URL="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("drain g", "gpu1"),
        ("undrain ", "gpu1"),
        ("devices ", "gpu1"),
        ("events g", "gpu1"),
        ("logs t", "toy-1"),
        ("worker t", "toy-1"),
        ("move toy-1 ", "gpu1"),
        ("explain t", "toy"),
        ("chat t", "toy"),
        ("infer t", "toy"),
        ("bench t", "toy"),
        ("models load t", "toy"),
        ("models pull toy --hive ", "gpu1"),
    ],
)
def test_names_are_those_of_the_fleet(keeper: Keeper, monkeypatch: pytest.MonkeyPatch, line: str, word: str) -> None:
    """Hives, workers and models, for whoever may read them, however busy this machine is."""
    monkeypatch.setattr(completion, "PATIENCE", 20.0)
    words = f"rbee-keeper {line}"
    for name, text in {
        "_RBEE_KEEPER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - (not line.endswith(" "))),
    }.items():
        monkeypatch.setenv(name, text)
    status, out, err = keeper()
    assert (status, out.split(), err) == (0, [word], "")


def test_a_queen_that_is_silent_costs_less_than_a_second() -> None:
    """It takes connections and says nothing; nothing is offered, and the shell is free again."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        typed = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}", "api_key": "k"}
        context = SimpleNamespace(find_root=lambda: SimpleNamespace(params=typed))
        start = time.monotonic()
        assert completion.hives(cast("typer.Context", context), "") == []
        assert time.monotonic() - start < 1.0
        assert offered("rbee-keeper drain ", RBEE_URL=typed["url"], RBEE_API_KEY="k").strip() == ""


@pytest.mark.parametrize("environment", [{"RBEE_API_KEY_FILE": "/gone"}, {"RBEE_URL": "nonsense"}])
def test_wrong_settings_are_no_word_on_the_line(environment: dict[str, str]) -> None:
    """The command that is typed says what is wrong with them."""
    assert offered("rbee-keeper drain ", **environment).strip() == ""


def test_bash_completes_with_what_is_printed() -> None:
    """The script works as its help says."""
    script = f"""
        PATH={PROGRAM.parent}:$PATH
        eval "$(rbee-keeper completion bash)"
        COMP_WORDS=(rbee-keeper mod) COMP_CWORD=1
        _rbee_keeper_completion rbee-keeper
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert (done.stdout, done.stderr) == ("models\n", "")


def test_another_shell_is_a_sentence(keeper: Keeper) -> None:
    """With those that there are."""
    status, out, err = keeper("completion", "tcsh")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "'bash', 'zsh', 'fish'" in err
