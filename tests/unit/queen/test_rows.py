"""Long lists of the admin API leave the loop to others while they are made."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from rbee_runtime.queen.rows import TURN_SECONDS, rows


class Row(BaseModel):
    number: int


def slow(count: int) -> Iterator[Row]:
    """Yield rows that each take a turn's time."""
    for number in range(count):
        until = time.monotonic() + TURN_SECONDS
        while time.monotonic() < until:
            pass
        yield Row(number=number)


async def sent(found: Iterator[Row]) -> list[str]:
    return [str(part) async for part in rows(found).body_iterator]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_list_is_an_array_of_its_rows(count: int) -> None:
    """Whatever parts it comes in."""
    parts = await sent(Row(number=number) for number in range(count))
    assert json.loads("".join(parts)) == [{"number": number} for number in range(count)]


async def test_others_get_their_turn_while_a_list_is_made() -> None:
    """Between any two rows that take long somebody else is served."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(count())
    parts = await sent(slow(5))
    other.cancel()
    assert (len(parts), turns >= 4) == (6, True)
