"""A queen whose database is damaged: what she hears while she waits for it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_runtime.errors import DamagedStateError, StateError
from rbee_runtime.queen import refusing
from rbee_runtime.queen.commands import Commands
from rbee_runtime.queen.control import Order
from rbee_runtime.queen.store import Store
from rbee_runtime.server import bind

DAMAGE = DamagedStateError("queen.db is damaged")


@dataclass
class Waiting:
    """A queen with a damaged database, her supervisor's end of the channel, and her socket."""

    supervisor: socket.socket
    commands: Commands
    listener: socket.socket

    async def run(self, opened: Callable[[], Store]) -> Store | None:
        async with asyncio.timeout(20):
            return await refusing.until_usable(opened, DAMAGE, self.listener, self.commands, None)


@pytest.fixture
async def waiting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Waiting]:
    """Give a queen who looks often."""
    monkeypatch.setattr(refusing, "LOOK_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    listener = bind("127.0.0.1", 0)
    commands = Commands(theirs)
    yield Waiting(ours, commands, listener)
    commands.order.cancel()
    for end in (ours, theirs, listener):
        end.close()


async def test_an_order_that_comes_during_a_look_is_followed(waiting: Waiting, tmp_path: Path) -> None:
    """The database that was found whole is given back, for the next queen has a right to it."""
    found: list[Store] = []

    def opened() -> Store:
        waiting.supervisor.sendall(b"drain\n")
        found.append(Store(tmp_path))
        # A look at a large database takes a while, in its thread.
        time.sleep(0.3)
        return found[0]

    assert await waiting.run(opened) is None
    assert await waiting.commands.order is Order.DRAIN
    Store(tmp_path).close()


async def test_an_order_after_the_repair_is_the_queen_s_to_hear(waiting: Waiting, tmp_path: Path) -> None:
    """Whoever asks for it, there is one."""
    store = await waiting.run(lambda: Store(tmp_path))
    assert store is not None
    store.close()
    waiting.supervisor.sendall(b"stop\n")
    async with asyncio.timeout(20):
        assert await waiting.commands.order is Order.STOP


async def test_her_socket_is_hers_when_she_serves(waiting: Waiting, tmp_path: Path) -> None:
    """What waits there in between is answered then."""
    store = await waiting.run(lambda: Store(tmp_path))
    assert store is not None
    store.close()
    port = waiting.listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=20):
        waiting.listener.setblocking(True)
        waiting.listener.accept()[0].close()


async def test_another_trouble_ends_the_start(waiting: Waiting) -> None:
    """Such as that another queen has the state by now."""

    def opened() -> Store:
        raise StateError("another queen uses it")

    with pytest.raises(StateError, match="another queen"):
        await waiting.run(opened)


async def test_an_order_between_looks_is_followed_at_once(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks once more first, and trouble that comes of that would be no answer to it."""
    monkeypatch.setattr(refusing, "LOOK_SECONDS", 3.0)

    def opened() -> Store:
        raise StateError("another queen uses it")

    asyncio.get_running_loop().call_later(0.2, waiting.supervisor.sendall, b"drain\n")
    assert await waiting.run(opened) is None


async def test_trouble_during_a_look_does_not_hide_an_order(waiting: Waiting) -> None:
    """The next queen may have the state by then."""

    def opened() -> Store:
        waiting.supervisor.sendall(b"drain\n")
        time.sleep(0.3)
        raise StateError("another queen uses it")

    assert await waiting.run(opened) is None


async def test_new_damage_is_logged_once(waiting: Waiting, capsys: pytest.CaptureFixture[str]) -> None:
    """A restored file may be damaged in another way, and nobody wants the same line every five seconds."""
    looks = [0]

    def opened() -> Store:
        looks[0] += 1
        if looks[0] == 6:
            waiting.supervisor.sendall(b"drain\n")
        raise DamagedStateError("it is no database" if looks[0] > 2 else str(DAMAGE))

    assert await waiting.run(opened) is None
    lines = [line for line in capsys.readouterr().err.splitlines() if "state damaged" in line]
    assert [line.partition("why=")[2] for line in lines] == ['"queen.db is damaged"', '"it is no database"']
