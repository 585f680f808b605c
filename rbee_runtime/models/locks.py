"""One at a time across processes, and across hives that share a store: locks on files, which end with their holder."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.layout import sentences
from rbee_runtime.models.threads import Threads

POLL_SECONDS = 0.25

BRIEF_SECONDS = 10.0
"""What is done under a brief lock takes milliseconds; a network disk may make seconds of them."""

Sleep = Callable[[float], Awaitable[None]]


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Take the lock for the block if nobody has it; gives whether that worked."""
    handle = _taken(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def brief(path: Path) -> Iterator[None]:
    """Hold the lock for what takes milliseconds; ModelStoreError if somebody keeps it. Call it from a thread."""
    deadline = time.monotonic() + BRIEF_SECONDS
    with sentences(f"cannot lock {path}"):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    while True:
        with tried(path) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise ModelStoreError(f"{path} is held by somebody else for {BRIEF_SECONDS:g} s now; try again later")
        time.sleep(POLL_SECONDS / 10)


@contextlib.asynccontextmanager
async def held(path: Path, threads: Threads, *, sleep: Sleep = asyncio.sleep) -> AsyncIterator[bool]:
    """Wait for the lock and hold it for the block; gives whether somebody else had it before."""
    waited = False
    while (handle := await _taken_in_thread(path, threads)) is None:
        waited = True
        await sleep(POLL_SECONDS)
    try:
        yield waited
    finally:
        # Not waited for: who was cancelled goes, also while the disk hangs.
        threads.submit(os.close, handle)


async def _taken_in_thread(path: Path, threads: Threads) -> int | None:
    taking = threads.submit(_taken, path)
    try:
        return await asyncio.wrap_future(taking)
    except asyncio.CancelledError:
        # A thread that has it in this very moment must not keep it.
        taking.add_done_callback(_let_go)
        raise


def _let_go(taking: Future[int | None]) -> None:
    if not taking.cancelled() and taking.exception() is None and (handle := taking.result()) is not None:
        os.close(handle)


def _taken(path: Path) -> int | None:
    """Return the descriptor that holds the lock, or None if somebody else has it."""
    with sentences(f"cannot lock {path}"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
    return handle
