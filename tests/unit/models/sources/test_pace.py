"""Senders that drip: told from slow lines by the bytes of a minute, and not waited for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.models.download import BACKOFF_SECONDS
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import Listing, RemoteFile, SlowError, TransientError
from rbee_runtime.models.sources.fetcher import Fetcher
from rbee_runtime.models.sources.pace import FLOOR_BYTES_PER_SECOND, WINDOW_SECONDS, paced
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec
from tests.unit.models.faulty_server import Fault, faulty_server
from tests.unit.models.pulling import uninspected

SIZE = 1000


class Clock:
    """Seconds that pass with each block that comes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def drip(self, size: int, seconds: float, count: int = SIZE) -> AsyncIterator[bytes]:
        """Send so many bytes each so many seconds."""
        for _ in range(count):
            self.now += seconds
            yield bytes(size)


@pytest.mark.parametrize(
    ("size", "seconds", "ends"),
    [(1, 1.0, True), (FLOOR_BYTES_PER_SECOND - 1, 1.0, True), (FLOOR_BYTES_PER_SECOND, 1.0, False), (0, 29.0, True)],
    ids=["drip", "just under", "floor", "silence"],
)
async def test_less_than_the_floor_ends_a_try(size: int, seconds: float, ends: bool) -> None:
    """Within a minute or one block more, and nothing that came is lost; at the floor it goes on for ever."""
    clock, came = Clock(), 0
    try:
        async for block in paced(clock.drip(size, seconds), "h", clock):
            came += len(block)
    except SlowError:
        assert WINDOW_SECONDS <= clock.now < 2 * WINDOW_SECONDS
        assert came == size * clock.now / seconds
    assert (clock.now < SIZE * seconds) is ends


async def test_time_that_the_own_disk_takes_does_not_count() -> None:
    """Whoever reads slowly does not blame the sender."""
    clock = Clock()
    async for _ in paced(clock.drip(1, 0.001), "h", clock):
        clock.now += 100


async def test_a_block_has_its_time_where_only_large_ones_are_handed_out() -> None:
    """A client that gathers a block without an end is left after the time that the floor gives it."""

    async def gathering() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    with pytest.raises(SlowError, match="sends less than"):
        await anext(paced(gathering(), "h", Clock(), within=0.01))


async def test_the_fetcher_gives_up_a_server_that_drips() -> None:
    """Each byte comes within the stall time, and still it ends."""
    clock = Clock()

    def passing() -> float:
        clock.now += 20
        return clock.now

    async with faulty_server(bytes(300 * 1024), Fault(pause=0.001)) as server:
        fetcher = Fetcher(StoreSettings(plain_http_hosts=("127.0.0.1",)), clock=passing)
        with pytest.raises(SlowError, match="less than 16384"):
            _ = [block async for block in fetcher.read(server.url())]
        await fetcher.close()


async def test_a_dripping_source_does_not_hold_a_download_for_ever(tmp_path: Path) -> None:
    """Bytes that came too slowly do not start the pauses anew: the model's turn ends, and what came is kept."""
    clock, pauses = Clock(), []

    class Source:
        async def list(self) -> Listing:
            return Listing((RemoteFile("m.gguf", SIZE, etag="1"),))

        def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
            return paced(clock.drip(1, 1.0, SIZE - offset), "h", clock)

        async def close(self) -> None: ...

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    store = ModelStore(tmp_path, StoreSettings(spare=0))
    puller = Puller(store, opener=lambda *_: Source(), inspect=uninspected, sleep=sleep)
    with pytest.raises(TransientError, match="sends 1 bytes/s"):
        await puller.pull(ModelSpec(name="m", source="https://models.example/m.gguf"))
    assert tuple(pauses) == BACKOFF_SECONDS
    part = next((tmp_path / "partial").glob("*.part"))
    assert part.stat().st_size == 60 * (len(BACKOFF_SECONDS) + 1)
