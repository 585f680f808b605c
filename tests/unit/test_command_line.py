"""Programs of the runtime say what is wrong with their command line in one sentence, and how their help is called."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from rbee_runtime import logs
from rbee_runtime.command_line import Parser
from rbee_runtime.devices import __main__ as devices
from rbee_runtime.hive import main as hive
from rbee_runtime.hive.launchers import stopping
from rbee_runtime.queen import command as queen
from rbee_runtime.worker import command as worker


@pytest.mark.parametrize(
    ("program", "words", "status", "sentence"),
    [
        (
            queen.run,
            ["--prot", "1"],
            1,
            "rbee-queen: there is no option --prot; did you mean --port; see rbee-queen --help",
        ),
        (
            queen.run,
            ["--port", "x"],
            1,
            "rbee-queen: argument --port: invalid int value: 'x'; see rbee-queen --help",
        ),
        (
            hive.main,
            ["--confg"],
            64,
            "rbee-hive: there is no option --confg; did you mean --config; see rbee-hive --help",
        ),
        (
            worker.run,
            ["--modle"],
            64,
            "rbee-worker: there is no option --modle; did you mean --model; see rbee-worker --help",
        ),
        (
            stopping.main,
            ["--confg"],
            1,
            (
                "rbee-workers: there is no option --confg; did you mean --config; "
                "see python -m rbee_runtime.hive.launchers.stopping --help"
            ),
        ),
        (
            devices.main,
            ["record", "--to", "x"],
            2,
            "devices: there is no option --to; did you mean --out; see python -m rbee_runtime.devices record --help",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(
    program: Callable[..., Any],
    words: list[str],
    status: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No usage block hides what is wrong, and the exit status is that of a wrong setting."""
    monkeypatch.setattr(logs, "capture_libraries", lambda: None)  # would take pytest's own handlers away
    monkeypatch.setattr(sys, "argv", ["program", *words])
    try:
        ended = program() if program is hive.main else program(words)
    except SystemExit as error:
        ended = error.code
    assert (ended, capsys.readouterr().err) == (status, sentence + "\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--out=-x", "-3"],
        ["--ou", "x", "-v5"],
        ["--out", "-2.5", "- a thing with spaces"],
        ["--out", "x", "-", "--", "--ouy"],
        ["--out", "x", "do", "--deep", "1"],
    ],
)
def test_what_only_looks_like_an_option_is_taken(words: list[str]) -> None:
    """Numbers, beginnings of options, what follows `--` and the options of a command are no mistakes."""
    parser = Parser(prog="p")
    parser.add_argument("--out", required=True)
    parser.add_argument("-v")
    parser.add_argument("more", nargs="*")
    if "do" in words:
        parser = Parser(prog="p")
        parser.add_argument("--out", required=True)
        parser.add_subparsers().add_parser("do").add_argument("--deep")
    assert parser.parse_args(words).out
