"""What probes say about one running worker; pure: a new value from the last one and an answer."""

from dataclasses import dataclass, replace

SILENCE_SECONDS = 10.0
"""A silent worker leaves rotation after this: with the probe period and the heartbeat the queen knows within 15 s."""

RETURN_PROBES = 2
"""A worker that was silent is back in rotation after so many good answers, so that it does not flap."""


@dataclass(frozen=True)
class Answer:
    """One probe. `reached` is False when there was no HTTP answer at all; `in_flight` None when it did not say."""

    reached: bool
    ready: bool = False
    spec: str = ""
    in_flight: int | None = None
    said: str = ""


@dataclass(frozen=True)
class Health:
    """A running worker as its probes show it; `since` is the first probe, `silent_since` the first that failed."""

    since: float
    ready: bool = False
    spec: str = ""
    in_flight: int = 0
    good: int = 0
    fell_silent: bool = False
    silent_since: float | None = None
    said: str = ""


def observe(before: Health | None, answer: Answer, *, now: float) -> Health:
    """Return the health after one more answer."""
    health = before or Health(since=now)
    return _heard(health, answer) if answer.reached else _silent(health, answer, now)


def _heard(health: Health, answer: Answer) -> Health:
    good = health.good + 1 if answer.ready else 0
    ready = answer.ready and (health.ready or not health.fell_silent or good >= RETURN_PROBES)
    return replace(
        health,
        ready=ready,
        good=good,
        spec=answer.spec or health.spec,
        in_flight=health.in_flight if answer.in_flight is None else answer.in_flight,
        fell_silent=health.fell_silent and not ready,
        silent_since=None,
        said="" if ready else answer.said,
    )


def _silent(health: Health, answer: Answer, now: float) -> Health:
    since = now if health.silent_since is None else health.silent_since
    gone = health.ready and now - since >= SILENCE_SECONDS
    return replace(
        health,
        good=0,
        ready=health.ready and not gone,
        fell_silent=health.fell_silent or gone,
        silent_since=since,
        said=answer.said,
    )
