"""Programs of the runtime say what is wrong with their command line in one sentence, and how their help is called."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from rbee_runtime import logs
from rbee_runtime.devices import __main__ as devices
from rbee_runtime.hive import main as hive
from rbee_runtime.hive.launchers import stopping
from rbee_runtime.queen import command as queen
from rbee_runtime.worker import main as worker


@pytest.mark.parametrize(
    ("program", "words", "status", "sentence"),
    [
        (queen.run, ["--prot", "1"], 1, "rbee-queen: unrecognized arguments: --prot 1; see rbee-queen --help"),
        (
            queen.run,
            ["--port", "x"],
            1,
            "rbee-queen: argument --port: invalid int value: 'x'; see rbee-queen --help",
        ),
        (hive.main, ["--confg"], 64, "rbee-hive: unrecognized arguments: --confg; see rbee-hive --help"),
        (worker.run, ["--modle"], 64, "rbee-worker: unrecognized arguments: --modle; see rbee-worker --help"),
        (
            stopping.main,
            ["--confg"],
            1,
            "rbee-workers: unrecognized arguments: --confg; see python -m rbee_runtime.hive.launchers.stopping --help",
        ),
        (
            devices.main,
            ["record", "--to", "x"],
            2,
            "devices: unrecognized arguments: --to x; see python -m rbee_runtime.devices record --help",
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
