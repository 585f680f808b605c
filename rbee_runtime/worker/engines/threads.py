"""How the threads of llama.cpp wait for each other."""

import os

SPINS = "1000"
"""Turns in which a thread waits for the others before it sleeps, 10 to 60 microseconds.

Without any, each of the hundreds of waits of a token costs a wake-up: 3 to 5 times as slow on an idle machine. With
libgomp's own 300,000 an answer is many times slower as soon as anything else wants a core. How long a turn is differs
by processor. On 2 cores, ms per token of one answer, idle and beside one busy process: on one machine 0 turns 19 and
12, 200 turns 6 and 14, 10,000 turns 7 and 62; on another 0 turns 33 and 20, 200 turns 21 and 19, 500 turns 10 and 25,
1,000 turns 7 and 31, 10,000 turns 8 and 84.
"""


def waits() -> dict[str, str]:
    """Return the variable that says so, unless whoever started this process has said it."""
    said = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    return {} if said else {"GOMP_SPINCOUNT": SPINS}
