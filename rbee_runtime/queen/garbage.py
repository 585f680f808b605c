"""When Python looks for garbage in cycles: between answers, instead of at any moment.

A look at all that lives takes 40 ms among what a thousand hives keep alive, and nobody is answered meanwhile. What
nobody refers to is gone at once, without any look.
"""

import asyncio
import gc
from itertools import count

YOUNG = 50_000
"""So many new objects are looked at in the middle of something: a flood of cycles does not last a second. Python's own
number is 700; ten thousand took 5 ms, and what outlived ten such looks 15 to 35."""

YOUNG_SECONDS = 1.0
"""Between two looks at the newest."""

FULL_SECONDS = 20.0
"""Between two looks at all: so long a cycle is kept that outlived one at the newest, with all of its request."""

_NEVER = 1_000_000_000
_NEWEST, _ALL = 0, 2


async def looking() -> None:
    """Look for garbage until cancelled."""
    before = gc.get_threshold()
    # What a start has made stays for good.
    gc.freeze()
    gc.set_threshold(YOUNG, _NEVER, _NEVER)
    try:
        for number in count(1):
            await asyncio.sleep(YOUNG_SECONDS)
            gc.collect(_NEWEST if number % round(FULL_SECONDS / YOUNG_SECONDS) else _ALL)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
