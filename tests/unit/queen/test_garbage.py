"""When Python looks for garbage, in a queen that keeps much alive."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rbee_runtime.queen import garbage
from tests.unit.hive.waiting import until


class Cycle:
    """Refers to itself, so that only a look finds that nobody else does."""

    def __init__(self) -> None:
        self.me = self


@asynccontextmanager
async def looking() -> AsyncIterator[None]:
    task = asyncio.create_task(garbage.looking())
    await asyncio.sleep(0)
    yield
    task.cancel()
    await asyncio.wait([task])


async def looks(count: int) -> None:
    """Wait for so many full looks."""
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda collect=gc.collect: seen.append(collect()))
        await until(lambda: len(seen) >= count)


async def test_what_is_alive_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full look it is frozen, so that the next one goes through what came since."""
    monkeypatch.setattr(garbage, "FULL_SECONDS", 0.01)
    async with looking():
        kept, before = [Cycle() for _ in range(1000)], gc.get_freeze_count()
        await looks(2)
        assert gc.get_freeze_count() >= before + len(kept)
        assert len(gc.get_objects()) < len(kept)


async def test_new_garbage_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became garbage before it was ever looked at goes with the next look."""
    monkeypatch.setattr(garbage, "FULL_SECONDS", 0.01)
    async with looking():
        gone = weakref.ref(Cycle())
        await until(lambda: gone() is None)


async def test_old_garbage_is_found_within_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle that was alive at a look is kept until everything is looked at again."""
    monkeypatch.setattr(garbage, "FULL_SECONDS", 0.01)
    monkeypatch.setattr(garbage, "THAW_LOOKS", 20)
    async with looking():
        kept = Cycle()
        gone = weakref.ref(kept)
        await looks(2)
        del kept
        gc.collect()
        assert gone() is not None
        await until(lambda: gone() is None)


async def test_python_does_as_before_afterwards() -> None:
    """Nothing of it outlives a queen that shares a process with others."""
    before = gc.get_threshold()
    async with looking():
        assert gc.get_threshold()[0] == garbage.YOUNG
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
