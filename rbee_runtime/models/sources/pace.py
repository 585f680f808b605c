"""The least that a sender must send: one that drips would hold a model's download for ever."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

from rbee_runtime.models.sources import SlowError

FLOOR_BYTES_PER_SECOND = 16 * 1024
"""A GB would take 18 hours: below any line over which somebody would fetch a model."""

WINDOW_SECONDS = 60.0
"""Of waiting for the sender; what the own disk takes does not count."""


async def paced(
    blocks: AsyncIterable[bytes], where: str, clock: Callable[[], float], *, within: float | None = None
) -> AsyncIterator[bytes]:
    """Yield the same blocks; SlowError naming `where` once they came slower than the floor for a whole window.

    `within` seconds one block has to come, for those who hand out large ones only.
    """
    waited, came, since = 0.0, 0, clock()
    each = aiter(blocks)
    while True:
        try:
            block = await (anext(each) if within is None else _within(anext(each), within, where))
        except StopAsyncIteration:
            return
        waited += clock() - since
        came += len(block)
        yield block
        if waited >= WINDOW_SECONDS:
            if came < FLOOR_BYTES_PER_SECOND * waited:
                raise SlowError(f"{where} sends {came / waited:.0f} bytes/s, less than {FLOOR_BYTES_PER_SECOND}")
            waited, came = 0.0, 0
        since = clock()


async def _within(block: Awaitable[bytes], seconds: float, where: str) -> bytes:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await block
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise SlowError(f"{where} sends less than {FLOOR_BYTES_PER_SECOND} bytes/s") from error
