"""How a queen lets go of its parts."""

import asyncio

import pytest

from rbee_runtime.queen import serving


async def test_a_part_that_misses_its_first_cancel_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that goes on after one cancellation does not keep the queen from leaving."""
    monkeypatch.setattr(serving, "CANCEL_SECONDS", 0.01)
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
        await serving._cancel(task)
    assert (missed.is_set(), task.cancelled()) == (True, True)
