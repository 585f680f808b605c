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


async def test_garbage_goes_between_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle is gone after the next look, and after the next one at all if it was alive at one before."""
    monkeypatch.setattr(garbage, "YOUNG_SECONDS", 0.02)
    monkeypatch.setattr(garbage, "FULL_SECONDS", 0.2)
    full = gc.get_stats()[2]["collections"]
    async with looking():
        kept, young = Cycle(), weakref.ref(Cycle())
        gone = weakref.ref(kept)
        await until(lambda: young() is None)
        assert gc.get_stats()[2]["collections"] == full
        assert gone() is kept
        del kept
        await until(lambda: gone() is None)
    assert gc.get_stats()[2]["collections"] > full


async def test_no_look_at_all_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much comes to be: only the newest are looked at in the middle of something."""
    monkeypatch.setattr(garbage, "YOUNG", 100)
    newest, some, full = (each["collections"] for each in gc.get_stats())
    async with looking():
        kept = [Cycle() for _ in range(garbage.YOUNG * 3000)]
        assert [each["collections"] for each in gc.get_stats()[1:]] == [some, full]
        assert gc.get_stats()[0]["collections"] > newest
    del kept


async def test_python_does_as_before_afterwards() -> None:
    """Nothing of it outlives a queen that shares a process with others."""
    before = gc.get_threshold()
    async with looking():
        assert gc.get_threshold()[0] == garbage.YOUNG
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
