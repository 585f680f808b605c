"""The engine's end of the socket to its front."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.worker.engines.llamacpp import wire
from rbee_runtime.worker.engines.llamacpp.program import Channel

MESSAGES = 200


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    front, engine = socket.socketpair()
    front.settimeout(5)
    with front, engine:
        yield front, engine


def test_messages_are_whole_however_they_come(ends: tuple[socket.socket, socket.socket]) -> None:
    """Halves are waited for, several at once are read one after the other, and an end within one is an end."""
    front, engine = ends
    channel = Channel(engine)
    first, second = wire.Tokenise(1, "a" * 100_000), wire.Ping(2)
    sent = wire.frame(first) + wire.frame(second)
    received: list[Any] = []
    reader = threading.Thread(target=lambda: received.extend(iter(channel.receive, None)))
    reader.start()
    for at in range(0, len(sent), 40_000):
        front.sendall(sent[at : at + 40_000])
    front.sendall(wire.frame(wire.Ping(3))[:-1])
    front.close()
    reader.join(5)
    assert received == [first, second]


def test_a_front_that_reads_does_not_wake_the_reader(ends: tuple[socket.socket, socket.socket]) -> None:
    """The thread that waits for requests sleeps on while the front takes what the engine says."""
    front, engine = ends
    channel = Channel(engine)
    reader = threading.Thread(target=channel.receive)
    reader.start()
    message = wire.Pong(1)
    size = len(wire.frame(message))

    def exchange() -> None:
        channel.send(message)
        assert len(front.recv(size, socket.MSG_WAITALL)) == size
        # So that a thread which is woken runs before the next message.
        time.sleep(0.001)

    exchange()
    before = _sleeps(reader)
    for _ in range(MESSAGES):
        exchange()
    more = _sleeps(reader) - before
    front.sendall(wire.frame(wire.Quit()))
    reader.join(5)
    assert more < MESSAGES / 10


def _sleeps(thread: threading.Thread) -> int:
    """Return how often a thread has gone to sleep."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text("utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")))
