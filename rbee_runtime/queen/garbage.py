"""When Python looks for garbage in cycles: between answers, instead of at any moment.

A look at all that lives takes 40 ms among what a thousand hives keep alive, and nobody is answered meanwhile. What
nobody refers to is gone at once, without any look.
"""

import asyncio
import gc

YOUNG = 10_000
"""Objects that come to be between two looks at the newest: few are garbage in cycles. Python's own number is 700."""

FULL_SECONDS = 20.0
"""Between two looks at all: so long a cycle is kept, with whatever a request brought that is part of it."""

_NEVER = 1_000_000_000


async def looking() -> None:
    """Look for garbage until cancelled."""
    before = gc.get_threshold()
    # What a start has made stays for good.
    gc.freeze()
    gc.set_threshold(YOUNG, before[1], _NEVER)
    try:
        while True:
            await asyncio.sleep(FULL_SECONDS)
            gc.collect()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
