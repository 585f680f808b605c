"""What probes say about one running worker; pure: a new value from the last one and an answer.

Silence is what failed probes have seen of it, never the difference of two clock times, because the hive is not always
there to look:

a worker answers nothing any more     each failed probe adds the time since the probe before: the schedule's period
the host was suspended, or paused     the clock jumps; the next probe adds one period, and its answer takes all back
the hive stood still and goes on      a probe that came back much too late tells nothing and is not counted (`probes`)
the hive is slow all the time         probes are rarer, so the limits come later; its own watchdog looks after that
"""

from dataclasses import dataclass, replace

PERIOD_SECONDS = 2.5
"""Between two probes as scheduled, or two looks at all workers; a longer gap is the hive's own and counts as this."""

SILENCE_SECONDS = 10.0
"""A silent worker leaves rotation after this: with the probe period and the heartbeat the queen knows within 15 s."""

RETURN_PROBES = 2
"""A worker that was silent is back in rotation after so many good answers, so that it does not flap."""


@dataclass(frozen=True)
class Answer:
    """One probe. `reached` is False when there was no HTTP answer at all.

    `in_flight`, `loaded` (0 to 1: how much of its model), `slots` and `context` are None when it did not say.
    """

    reached: bool
    ready: bool = False
    spec: str = ""
    in_flight: int | None = None
    loaded: float | None = None
    slots: int | None = None
    context: int | None = None
    said: str = ""


@dataclass(frozen=True)
class Health:
    """A running worker as its probes show it.

    `since` is the first probe and `at` the last, `silent_since` the first that failed in a row (for people; the limits
    do not use it). `silent` is the seconds of silence that failed probes have witnessed. `slots` and `context` are what
    its engine made of the spec's, 0 until it says so.
    """

    since: float
    at: float = 0.0
    ready: bool = False
    spec: str = ""
    in_flight: int = 0
    loaded: float = 0.0
    slots: int = 0
    context: int = 0
    good: int = 0
    fell_silent: bool = False
    silent_since: float | None = None
    silent: float = 0.0
    said: str = ""


def witnessed(before: float, now: float) -> float:
    """Return how many of the seconds since an earlier look count as watched."""
    return max(0.0, min(now - before, PERIOD_SECONDS))


def observe(before: Health | None, answer: Answer, *, now: float) -> Health:
    """Return the health after one more answer."""
    health = before or Health(since=now, at=now)
    after = _heard(health, answer) if answer.reached else _silent(health, answer, now)
    return replace(after, at=now)


def _heard(health: Health, answer: Answer) -> Health:
    good = health.good + 1 if answer.ready else 0
    ready = answer.ready and (health.ready or not health.fell_silent or good >= RETURN_PROBES)
    return replace(
        health,
        ready=ready,
        good=good,
        spec=answer.spec or health.spec,
        in_flight=health.in_flight if answer.in_flight is None else answer.in_flight,
        loaded=health.loaded if answer.loaded is None else answer.loaded,
        slots=answer.slots or health.slots,
        context=answer.context or health.context,
        fell_silent=health.fell_silent and not ready,
        silent_since=None,
        silent=0.0,
        said="" if ready else answer.said,
    )


def _silent(health: Health, answer: Answer, now: float) -> Health:
    silent = health.silent + witnessed(health.at, now)
    gone = health.ready and silent >= SILENCE_SECONDS
    return replace(
        health,
        good=0,
        ready=health.ready and not gone,
        fell_silent=health.fell_silent or gone,
        silent_since=now if health.silent_since is None else health.silent_since,
        silent=silent,
        said=answer.said,
    )
