import contextlib
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from rbee_deploy import commands
from rbee_deploy.errors import ArtefactError


def test_a_quiet_success_says_nothing() -> None:
    """A command that ends quickly and well prints no line."""
    said: list[str] = []
    commands.run([sys.executable, "-c", "print('noise')"], title="try", say=said.append)
    assert said == []


def test_a_failure_shows_its_last_ten_lines() -> None:
    """The error holds the status and the end of the output, both streams, not the beginning."""
    code = "import sys; [print(f'line {i}') for i in range(30)]; sys.stdout.flush(); sys.exit('the reason')"
    with pytest.raises(ArtefactError) as raised:
        commands.run([sys.executable, "-c", code], title="count", say=print)
    lines = str(raised.value).splitlines()
    assert lines[0] == "could not count (exit status 1):"
    assert lines[-1] == "  the reason"
    assert len(lines) == 11


def test_a_long_command_shows_time_and_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While it runs there is a sign of life with the step that a build tool printed last."""
    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.05)
    said, heard = list[str](), tmp_path / "heard"
    code = (
        "import os, sys, time; print('[1/9] a'); print('[2/9] b', flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    )

    def say(line: str) -> None:
        said.append(line)
        if "[2/9]" in line:
            heard.touch()

    commands.run([sys.executable, "-c", code, str(heard)], title="compile", say=say)
    told = next(line for line in said if "[2/9]" in line)
    assert re.fullmatch(r"compile: \d+ s \[2/9\]", told)


def test_an_interrupt_ends_the_whole_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no compiler behind: grandchildren end with the command."""
    pid_file = tmp_path / "pid"

    def interrupt(line: str) -> None:
        if pid_file.exists() and pid_file.read_text().strip():
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.05)
    with pytest.raises(KeyboardInterrupt):
        commands.run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], title="x", say=interrupt)
    assert ended(int(pid_file.read_text()), within=30.0)


def ended(pid: int, *, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError):  # it may go between two looks
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        threading.Event().wait(0.02)
    return False
