"""The live view of the fleet."""

import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest

from rbee_runtime.keeper.top import Rates
from rbee_runtime.keeper.top_view import bar
from tests.unit.keeper.stand_in import TABLES, StandIn
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

COMMAND = [sys.executable, "-m", "rbee_runtime.keeper.main", "top", "--every", "0.2"]


@pytest.mark.parametrize("typed", [["--once"], []], ids=["once", "pipe"])
def test_a_pipe_gets_one_look(keeper: Keeper, typed: list[str]) -> None:
    """Models, workers and devices, each on a line however long it is, without a letter for a terminal."""
    status, out, err = keeper("top", *typed)
    assert (status, err, "\x1b" in out) == (0, "", False)
    for word in ("queen 9.9 ok, 1 in flight, 0 waiting, - tokens/s", "toy-1", "1/4", "1/2", "GPU-1", "0 of 24.0 GiB"):
        assert word in out
    assert sum(line.startswith("toy") for line in out.splitlines()) == 2


def test_json_has_the_same_facts(keeper: Keeper) -> None:
    """One object for a look; a rate that nobody knows yet is null."""
    (line,) = keeper("top", "--once", "--json")[1].splitlines()
    found = json.loads(line)
    assert (found["in_flight"], found["tokens_per_second"], found["models"][0]["slots"]) == (1, None, 4)
    assert found["devices"][0]["total"] == 24 << 30


def test_json_goes_on_until_ctrl_c(queen: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each look, each whole as soon as it is there; status 130 and no traceback."""
    run = subprocess.Popen([*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    looks = [json.loads(run.stdout.readline()) for _ in range(3)]
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=20)
    assert (run.returncode, err.strip()) == (130, "")
    assert [look["tokens_per_second"] for look in looks] == [None, 0.0, 0.0]


def test_a_reader_that_had_enough_ends_it(queen: StandIn) -> None:
    """As in `| head -1`."""
    line = f"{' '.join(COMMAND)} --json | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


@pytest.mark.parametrize(("rows", "columns"), [(40, 120), (3, 12), (1, 1)], ids=["large", "small", "tiny"])
def test_a_terminal_is_drawn_on_and_given_back(queen: StandIn, rows: int, columns: int) -> None:
    """Whatever its size; Ctrl-C brings back what was there before, with status 130."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    run = subprocess.Popen(
        COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[H") < 3:
        shown += os.read(ours, 65536)
    run.send_signal(signal.SIGINT)
    while part := _read(ours):
        shown += part
    assert (run.wait(20), b"Traceback" in shown) == (130, False)
    assert shown.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?1049l" in shown


def _read(terminal: int) -> bytes:
    """Return what is there, b"" once the other end is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_a_queen_that_is_away_is_an_error_at_the_beginning(keeper: Keeper) -> None:
    """Nothing is drawn of a fleet that nobody saw."""
    assert keeper("--url", "http://127.0.0.1:1", "top")[0] == 3


def test_rates_are_of_a_window() -> None:
    """Since the oldest look in it, and from the beginning when the count does."""
    rates = Rates(window=10.0)
    assert rates.look(0.0, {"m": 100}) is None
    assert rates.look(5.0, {"m": 150, "n": 5}) == {"m": 10.0, "n": 1.0}
    assert rates.look(10.0, {"m": 150, "n": 5}) == {"m": 5.0, "n": 0.5}
    assert rates.look(16.0, {"m": 260, "n": 5}) == {"m": 10.0, "n": 0.0}
    assert rates.look(17.0, {"m": 3}) is None


@pytest.mark.parametrize(
    ("used", "total", "said"), [(0, 0, ""), (5, 10, f"{'█' * 10}{'░' * 10}  50 %"), (9, 4, "█" * 20)]
)
def test_a_bar_never_leaves_its_place(used: int, total: int, said: str) -> None:
    """Also where more is used than there is, as drivers say now and then."""
    assert bar(used, total).startswith(said)


def test_what_a_host_says_cannot_steer_the_terminal(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters are left out."""
    monkeypatch.setitem(TABLES, "workers", [{**TABLES["workers"][0], "detail": "a\x1b[2Jb"}])
    assert "a[2Jb" in keeper("top")[1]
