"""One at a time across processes, and across hives that share a store: locks on files, which end with their holder."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from rbee_runtime.models.layout import sentences

POLL_SECONDS = 0.25

Sleep = Callable[[float], Awaitable[None]]


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Take the lock for the block if nobody has it; gives whether that worked."""
    with sentences(f"cannot lock {path}"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield _take(handle)
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def held(path: Path, *, sleep: Sleep = asyncio.sleep) -> AsyncIterator[bool]:
    """Wait for the lock and hold it for the block; gives whether somebody else had it before."""
    waited = False
    while True:
        with tried(path) as mine:
            if mine:
                yield waited
                return
        waited = True
        await sleep(POLL_SECONDS)
