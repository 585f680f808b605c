"""When Python looks for garbage in cycles: between answers, and never again among what it found to be alive.

A full look goes through all objects that are not frozen, and nobody is answered meanwhile: among those that a thousand
hives keep alive 40 ms, at any moment. What nobody refers to is gone at once without any look, frozen or not.
"""

import asyncio
import gc

YOUNG = 10_000
"""Objects that come to be between two looks at the newest: few are garbage in cycles. Python's own number is 700."""

FULL_SECONDS = 10.0
"""Between two looks at all that is not frozen, after which what is alive is: each goes through what came since."""

THAW_LOOKS = 360
"""So many looks later everything is looked at: what was alive when it was frozen may be garbage by then."""

_NEVER = 1_000_000_000


async def looking() -> None:
    """Look for garbage until cancelled."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, before[1], _NEVER)
    # What a start has made stays for good.
    gc.freeze()
    try:
        while True:
            for _ in range(THAW_LOOKS):
                await asyncio.sleep(FULL_SECONDS)
                gc.collect()
                gc.freeze()
            gc.unfreeze()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
