"""Waits for what other processes do, never longer than asked."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def until(look: Callable[[], Awaitable[T]], *, within: float = 60.0) -> T: ...
@overload
async def until(look: Callable[[], T], *, within: float = 60.0) -> T: ...
async def until(look: Callable[[], T | Awaitable[T]], *, within: float = 60.0) -> T:
    """Return the first true result of `look`, or fail after `within` seconds with the last one."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        seen = await found if inspect.isawaitable(found) else found
        if seen:
            return seen
        assert time.monotonic() < deadline, f"still {seen!r} after {within} s"
        await asyncio.sleep(0.05)
