"""When a worker that fails gets no more requests, and how it comes back. Pure.

state        gets                                     and then
closed       requests; none for a moment after each   open, when it goes on failing
             failure while others can have them
open         none                                     half_open, when its time is over; closed, when too few others
                                                      are left
half_open    exactly one, its trial                   closed when that is answered, open for longer when it fails

A worker that was not ready in between is another one to us: it begins closed.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

PAUSE_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""How long a worker is left alone after its first, second, … failure in a row: a lost host costs few tries, and a
worker that is back is found again before its hive's next heartbeat or soon after."""

FAILURES = 3
"""So many in a row eject it; less is the odd request that no worker can answer."""

WINDOW_SECONDS, WINDOW_FAILURES, WINDOW_SHARE = 30.0, 5, 0.5
"""One that answers every other request is ejected, too: by this share, of so many failures, within the window."""

OPEN_SECONDS, OPEN_MOST = 10.0, 300.0
"""The first ejection, doubled for each further one up to the most: an engine that fails for good costs its clients a
try in five minutes."""

FORGET_SECONDS = 600.0
"""An ejection counts as the first again after so long without a failure."""


class Breaker(StrEnum):
    """Whether a worker gets requests; see the table above."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_B = Breaker
TRANSITIONS: dict[Breaker, frozenset[Breaker]] = {
    _B.CLOSED: frozenset({_B.OPEN}),
    _B.OPEN: frozenset({_B.HALF_OPEN, _B.CLOSED}),
    _B.HALF_OPEN: frozenset({_B.CLOSED, _B.OPEN}),
}


@dataclass(frozen=True, slots=True)
class Health:
    """What is held of one worker; times are monotonic seconds.

    It rests `until` then, `failures` are those in a row, `ejections` those that were not forgotten; of the requests
    that ended since the window began (`since`), `asked` in all, `failed` failed.
    """

    state: Breaker = Breaker.CLOSED
    failures: int = 0
    ejections: int = 0
    until: float = 0.0
    since: float = 0.0
    asked: int = 0
    failed: int = 0

    @property
    def is_ejected(self) -> bool:
        """Say whether it gets no requests, but perhaps one to try it."""
        return self.state is not Breaker.CLOSED

    def entered(self, state: Breaker, **changes: float) -> "Health":
        """Return it in another state, with other changes."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a breaker cannot go from {self.state} to {state}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]


SOUND = Health()


def after_failure(health: Health, now: float, *, answers: int, trial: bool, spared: bool) -> Health:
    """Return what a failed request makes of it; `answers` are those since the last failure.

    One that is `spared` is not ejected, because too few others would be left.
    """
    if health.state is Breaker.CLOSED:
        return _counted(health, now, answers, spared=spared)
    # Of one that is ejected already, only its trial says anything new.
    return _opened(health, now) if trial and health.state is Breaker.HALF_OPEN else health


def after_answer(health: Health, now: float, *, trial: bool) -> Health:
    """Return what an answer makes of it: whoever answers is left alone no longer, unless ejected."""
    if health.state is Breaker.CLOSED:
        return replace(health, failures=0, until=0.0)
    if trial and health.state is Breaker.HALF_OPEN:
        return health.entered(Breaker.CLOSED, failures=0, until=0.0, since=now, asked=0, failed=0)
    return health


def rested(health: Health, now: float) -> Health:
    """Return what the end of its rest makes of it; nothing before."""
    return health.entered(Breaker.HALF_OPEN) if health.state is Breaker.OPEN and now >= health.until else health


def pardoned(health: Health) -> Health:
    """Return it among those that get requests, though it was not tried."""
    return health.entered(Breaker.CLOSED, failures=0, until=0.0, asked=0, failed=0)


def may_eject(ejected: int, usable: int) -> bool:
    """Say whether one more of so many usable workers may be ejected: never the last one, nor more than half."""
    return ejected + 1 <= usable // 2


def explained(health: Health, left: float) -> str:
    """Return why an ejected worker gets no requests, in a sentence's part; it rests for so many seconds more."""
    if health.state is Breaker.HALF_OPEN or left <= 0:
        return "ejected as its requests failed; the next request tries it"
    return f"ejected as its requests failed; gets none for {math.ceil(left)} s, then one to try it"


def _counted(health: Health, now: float, answers: int, *, spared: bool) -> Health:
    fresh = now - health.since > WINDOW_SECONDS
    counted = replace(
        health,
        failures=health.failures + 1,
        ejections=0 if now - health.since > FORGET_SECONDS else health.ejections,
        since=now if fresh else health.since,
        asked=1 if fresh else health.asked + answers + 1,
        failed=1 if fresh else health.failed + 1,
    )
    often = counted.failed >= WINDOW_FAILURES and counted.failed >= WINDOW_SHARE * counted.asked
    if not spared and (counted.failures >= FAILURES or often):
        return _opened(counted, now)
    return replace(counted, until=now + PAUSE_SECONDS[min(counted.failures, len(PAUSE_SECONDS)) - 1])


def _opened(health: Health, now: float) -> Health:
    seconds = min(OPEN_SECONDS * 2.0 ** min(health.ejections, 16), OPEN_MOST)
    return health.entered(Breaker.OPEN, until=now + seconds, ejections=health.ejections + 1)
