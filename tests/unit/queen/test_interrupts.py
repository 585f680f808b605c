"""Ctrl-C pressed more than once: the end that was promised, within a bound, and true words about what is left."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_runtime.queen.supervisor import HURRY_SECONDS, STOP_SECONDS, Supervisor
from tests.ports import free_ports
from tests.unit.queen.test_laptop import Queen, root, workers
from tests.unit.queen.units import PATIENCE, alive, wait_until

__all__ = ["root"]


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """Give the file into which a queen's log goes."""
    return tmp_path / "log"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Give the service manager's ears: a second signal of a kind is lost while the first waits to be handled."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(str(tmp_path / "notify"))
        ears.settimeout(PATIENCE)
        yield ears


def heard(manager: socket.socket, word: bytes) -> None:
    """Return once the queen said so."""
    while word not in manager.recv(4096):
        pass


def launched(root: Path, said: Path, manager: socket.socket) -> Queen:
    """Return a queen with one worker that serves."""
    with said.open("wb") as log:
        queen = Queen(root, free_ports(2)[0], log=log.fileno(), NOTIFY_SOCKET=str(manager.getsockname()))
    assert queen.chat() == "tok0 tok1 tok2 "
    return queen


def serving(queen: Queen) -> int:
    """Return the pid of the serving process."""
    pid = queen.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.slow
def test_a_second_interrupt_still_ends_the_workers(root: Path, said: Path, manager: socket.socket) -> None:
    """Two in a row end it with its workers, as its banner promises, and the second one is answered."""
    queen = launched(root, said, manager)
    child = serving(queen)
    # It cannot be done before the second one comes.
    os.kill(child, signal.SIGSTOP)
    queen.process.send_signal(signal.SIGINT)
    heard(manager, b"STOPPING=1")
    queen.process.send_signal(signal.SIGINT)
    wait_until(lambda: f"rbee-queen: ends within {HURRY_SECONDS:.0f} s; Ctrl-C once more" in said.read_text())
    os.kill(child, signal.SIGCONT)
    assert queen.process.wait(PATIENCE) == 0
    queen.process.communicate()
    assert not workers(root)


@pytest.mark.slow
def test_a_third_interrupt_says_what_is_left(root: Path, said: Path, manager: socket.socket) -> None:
    """A serving process that hangs is waited for after two and killed after three; its workers are said to go on."""
    queen = launched(root, said, manager)
    (worker,) = workers(root)
    child = serving(queen)
    os.kill(child, signal.SIGSTOP)
    queen.process.send_signal(signal.SIGINT)
    heard(manager, b"STOPPING=1")
    queen.process.send_signal(signal.SIGINT)
    wait_until(lambda: "ends within" in said.read_text())
    assert queen.process.poll() is None
    assert queen.end(signal.SIGINT) == 1
    last = said.read_text().splitlines()[-1]
    assert last.startswith("rbee-queen: the serving process was interrupted and is killed; workers that still run")
    assert (alive(child), alive(worker)) == (False, True)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """Give a supervisor without a child, which hears signals only."""
    ours, theirs = socket.socketpair()
    made = Supervisor([], ours, ours)
    made._channel = ours
    with ours, theirs:
        yield made


@pytest.mark.parametrize(("interrupts", "most"), [(1, STOP_SECONDS), (2, HURRY_SECONDS), (3, 0.0)])
def test_each_interrupt_shortens_the_wait(supervisor: Supervisor, interrupts: int, most: float) -> None:
    """The first leaves workers their time, the second some seconds, the third none."""
    before = time.monotonic()
    for _ in range(interrupts):
        supervisor._on_signal(signal.SIGINT, None)
    after = time.monotonic()
    assert supervisor._deadline is not None
    assert supervisor._deadline == 0.0 if not most else before + most <= supervisor._deadline <= after + most
