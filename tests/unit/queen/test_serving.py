"""How a queen lets go of its parts."""

import asyncio
import socket
from pathlib import Path

import pytest

from rbee_runtime.config import HiveConfig, QueenConfig
from rbee_runtime.errors import StateError
from rbee_runtime.hive import attached
from rbee_runtime.link import Link, Role
from rbee_runtime.queen import commands, serving
from rbee_runtime.queen.store import Store
from rbee_runtime.server import bind


async def test_a_part_that_misses_its_first_cancel_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that goes on after one cancellation does not keep the queen from leaving."""
    monkeypatch.setattr(commands, "CANCEL_SECONDS", 0.01)
    missed = asyncio.Event()

    async def part() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            missed.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(part())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await commands.cancel(task)
    assert (missed.is_set(), task.cancelled()) == (True, True)


class BrokenHive:
    """A hive of which a part has ended."""

    async def wait_failed(self) -> None:
        raise StateError("the supervisor part of the hive ended by itself")


async def test_a_hive_that_breaks_does_not_leave_its_queen_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queen with a hive inside ends with it, so that both are started again; it does not serve on without workers."""

    async def start(*_: object) -> BrokenHive:
        return BrokenHive()

    monkeypatch.setattr(attached, "start", start)
    settings = QueenConfig(state_dir=tmp_path, run_dir=tmp_path / "run", fleet_file=tmp_path / "fleet.yaml")
    settings.fleet_file.write_text("hives: []\n")
    store = Store(tmp_path)
    ours, theirs = socket.socketpair()
    parts = serving.Serving(settings, store, Link(Role.QUEEN, "laptop", token="t"), digest="")
    listeners = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    try:
        with pytest.raises(StateError, match="the supervisor part of the hive ended by itself"):
            async with asyncio.timeout(20):
                await parts.run(*listeners, commands.Commands(ours), tls=None, hive=HiveConfig(), on_ready=lambda: None)
    finally:
        store.close()
        for end in (ours, theirs, *listeners):
            end.close()
