"""The unit's main process: owns the listening sockets and one serving child, so that a restart leaves no gap.

Asked to end, it lets the child release sockets and state and goes at once; the child finishes its open answers on its
own while the next supervisor's child already accepts from the same sockets.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from rbee_runtime import running
from rbee_runtime.notify import notify
from rbee_runtime.queen.control import LineReader, Order, Word

RELEASE_SECONDS = 15.0
"""Closing sockets and a database takes milliseconds, an attached hive's API up to 2 s; a child that needs longer
hangs, and is killed so that the next one gets the state."""

STOP_SECONDS = 200.0
"""Workers of an attached hive finish what is in flight first (at most 180 s)."""

HURRY_SECONDS = 10.0
"""After a second interrupt: idle workers end in a second or two, and who waits for others asks a third time."""

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def child_command(options: Sequence[str], client: int, link: int, control: int) -> list[str]:
    """Return the command of a serving child that inherits these descriptors."""
    descriptors = ["--client-fd", str(client), "--link-fd", str(link), "--control-fd", str(control)]
    return [sys.executable, "-m", "rbee_runtime.queen.serve", *options, *descriptors]


class Supervisor:
    """Runs one serving child until it ends or until a signal asks for it."""

    def __init__(self, options: Sequence[str], client: socket.socket, link: socket.socket) -> None:
        self._options = options
        self._sockets = (client, link)
        self._reader = LineReader()
        self._order: Order | None = None
        self._deadline: float | None = None
        self._interrupts = 0
        self._said = False

    def run(self) -> int:
        """Return the exit status of this process."""
        self._channel, theirs = socket.socketpair()
        with self._channel, _signal_wakeups(self._on_signal) as wakeups:
            # Held back until the child ignores it: its imports take a second, and Ctrl-C reaches both processes.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._child = self._spawn(theirs)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
            theirs.close()
            return self._attend(wakeups)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        client, link = (listener.fileno() for listener in self._sockets)
        kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET" and name[:7] != "LISTEN_"}
        return subprocess.Popen(
            child_command(self._options, client, link, theirs.fileno()),
            pass_fds=(client, link, theirs.fileno()),
            env=kept,
            # The child finds this package even where it is not installed, and nothing of the caller's folder.
            cwd=_PACKAGE_ROOT,
        )

    def _attend(self, wakeups: socket.socket) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(wakeups, selectors.EVENT_READ)
            while True:
                timeout = None if self._deadline is None else max(self._deadline - time.monotonic(), 0)
                ready = {key.fileobj for key, _ in selector.select(timeout)}
                if wakeups in ready:
                    wakeups.recv(64)
                    self._say_hurry()
                status = self._hear() if self._channel in ready else None
                if status is None and self._deadline is not None and time.monotonic() >= self._deadline:
                    status = self._give_up("was interrupted" if self._interrupts > 2 else "did not let go in time")
                if status is not None:
                    return status

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self._hurry()
                return
        order = Order.STOP if number == signal.SIGINT else Order.DRAIN
        if self._order is None:
            self._order = order
            self._deadline = time.monotonic() + (STOP_SECONDS if order is Order.STOP else RELEASE_SECONDS)
            notify("STOPPING=1")
            with contextlib.suppress(OSError):
                self._channel.sendall(f"{order}\n".encode())

    def _hurry(self) -> None:
        """Bound the end that was asked for before; what is said of it waits until no signal is handled."""
        if self._interrupts > 2 or self._deadline is None:
            self._deadline = 0.0
        else:
            self._deadline = min(self._deadline, time.monotonic() + HURRY_SECONDS)

    def _say_hurry(self) -> None:
        if self._interrupts == 2 and not self._said:
            self._said = True
            print(  # noqa: T201 - for the person who pressed Ctrl-C
                f"rbee-queen: ends within {HURRY_SECONDS:.0f} s; Ctrl-C once more kills the serving process at once"
                f"{self._left_behind()}",
                file=sys.stderr,
            )

    def _left_behind(self) -> str:
        """Return what becomes of workers that are not waited for; only an attached hive's end with the queen."""
        attached = "--hive" in self._options
        return "; workers that still run then go on, and the next start takes them over" if attached else ""

    def _hear(self) -> int | None:
        """Return the exit status if the child's words decide it."""
        try:
            data = self._channel.recv(4096)
        except ConnectionError:
            data = b""
        if not data:
            return self._ended()
        for line in self._reader.feed(data):
            if line == Word.READY:
                notify("READY=1\nSTATUS=serving")
            if line == Word.REFUSING:
                notify("READY=1\nSTATUS=refuses all requests: its database is damaged, see the log")
            if line == Word.RELEASED and self._order is Order.DRAIN:
                if not running.is_first():
                    return 0
                self._linger()
        return None

    def _linger(self) -> None:
        """Stay until the child has finished its open answers; it bounds that itself."""
        self._deadline = None
        for listener in self._sockets:
            listener.close()

    def _ended(self) -> int:
        status = self._child.wait()
        if self._order is not None:
            return 0 if status == 0 else 1
        if status < 0:
            print(f"rbee-queen: the serving process was killed by signal {-status}", file=sys.stderr)  # noqa: T201 - log
        return 1

    def _give_up(self, why: str) -> int:
        said = f"rbee-queen: the serving process {why} and is killed{self._left_behind()}"
        print(said, file=sys.stderr)  # noqa: T201 - log
        self._child.kill()
        self._child.wait()
        return 1


@contextlib.contextmanager
def _signal_wakeups(handler: Callable[[int, FrameType | None], None]) -> Iterator[socket.socket]:
    """Handle the two ending signals; the socket becomes readable when one came, so that a select returns."""
    ours, kernels = socket.socketpair()
    kernels.setblocking(False)
    before = signal.set_wakeup_fd(kernels.fileno())
    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(before)
        for number, previous in old.items():
            signal.signal(number, previous)
        ours.close()
        kernels.close()
