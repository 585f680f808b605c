"""The time of a loop that does not count what other programs took of the processor.

A promise like "refused within 0.1 s" is about the program. On a machine whose two cores build images meanwhile, its
thread waits in the kernel's run queue for longer than that; how long, the kernel tells. What earlier tests of the same
process left on its heap is no part of the program either: the collector does not walk through it meanwhile.
"""

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_READY, _BYTES = 1, 128


@contextmanager
def own_time(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Have the loop's `time()` stand still while its thread, ready to run, waits for a processor."""
    # The thread's own file (proc(5), schedstat): ns on a processor, ns ready and waiting for one, turns.
    file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    real = loop.time
    begun = _waited(file)
    gc.collect()
    gc.freeze()
    setattr(loop, "time", lambda: real() - (_waited(file) - begun))  # noqa: B010 - a method, which mypy lets nobody set
    try:
        yield
    finally:
        gc.unfreeze()
        delattr(loop, "time")
        os.close(file)


def _waited(file: int) -> float:
    return int(os.pread(file, _BYTES, 0).split()[_READY]) / 1e9
