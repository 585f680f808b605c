"""When failures put a worker out, and what brings it back."""

from dataclasses import replace

import pytest

from rbee_runtime.queen.ejection import (
    FAILURES,
    FORGET_SECONDS,
    OPEN_MOST,
    OPEN_SECONDS,
    PAUSE_SECONDS,
    SOUND,
    TRANSITIONS,
    WINDOW_SECONDS,
    Breaker,
    Health,
    after_answer,
    after_failure,
    explained,
    may_eject,
    pardoned,
    rested,
)

CLOSED, OPEN, HALF_OPEN = Breaker
NOW = 1000.0
OUT = Health(OPEN, FAILURES, ejections=1, until=NOW, since=NOW - 20)
TRIED = replace(OUT, state=HALF_OPEN)


def failed(health: Health, now: float = NOW, *, answers: int = 0, trial: bool = False, spared: bool = False) -> Health:
    return after_failure(health, now, answers=answers, trial=trial, spared=spared)


def told(health: Health, story: str, every: float = 1.0) -> Health:
    """Return what a story makes of a worker: `x` is a failure, `.` an answer."""
    answers = 0
    for step, what in enumerate(story):
        now = NOW + step * every
        if what == ".":
            answers += 1
            health = after_answer(health, now, trial=False)
        else:
            health, answers = failed(health, now, answers=answers), 0
    return health


@pytest.mark.parametrize(
    ("story", "every", "state"),
    [
        ("x", 1.0, CLOSED),
        ("xx", 1.0, CLOSED),
        ("xxx", 1.0, OPEN),
        ("xx.xx.xx", 10.0, CLOSED),
        ("x.x.x.x.x", 1.0, OPEN),
        ("x..x..x..x..x", 1.0, CLOSED),
        ("..........x.x.x.x.x", 1.0, OPEN),
        ("x.x.x.x.x", WINDOW_SECONDS / 2, CLOSED),
    ],
)
def test_it_takes_failures_in_a_row_or_half_of_all(story: str, every: float, state: Breaker) -> None:
    """Three in a row, or five that are half of what ended within the window; single ones do not add up."""
    assert told(SOUND, story, every).state is state


@pytest.mark.parametrize(("failures", "pause"), list(enumerate(PAUSE_SECONDS, 1)))
def test_one_that_is_spared_is_left_alone_for_a_moment(failures: int, pause: float) -> None:
    """Longer after each failure in a row, but it is never ejected."""
    health = SOUND
    for _ in range(failures):
        health = failed(health, spared=True)
    assert (health.state, health.until) == (CLOSED, NOW + pause)


@pytest.mark.parametrize(
    ("ejections", "seconds"), [(0, OPEN_SECONDS), (1, 2 * OPEN_SECONDS), (3, 8 * OPEN_SECONDS), (9, OPEN_MOST)]
)
def test_each_ejection_is_longer(ejections: int, seconds: float) -> None:
    """Twice as long as the one before, up to five minutes."""
    assert failed(replace(TRIED, ejections=ejections), trial=True).until == NOW + seconds


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (OUT, failed(OUT), OPEN),
        (OUT, after_answer(OUT, NOW, trial=False), OPEN),
        (OUT, rested(OUT, NOW - 0.1), OPEN),
        (OUT, rested(OUT, NOW), HALF_OPEN),
        (OUT, pardoned(OUT), CLOSED),
        (TRIED, failed(TRIED), HALF_OPEN),
        (TRIED, after_answer(TRIED, NOW, trial=False), HALF_OPEN),
        (TRIED, failed(TRIED, trial=True), OPEN),
        (TRIED, after_answer(TRIED, NOW, trial=True), CLOSED),
        (TRIED, pardoned(TRIED), CLOSED),
    ],
)
def test_only_time_and_the_trial_bring_it_back(before: Health, after: Health, state: Breaker) -> None:
    """Requests from before its ejection say nothing, whichever way they end; every step is in the table."""
    assert after.state is state
    assert state is before.state or state in TRANSITIONS[before.state]


@pytest.mark.parametrize(("later", "seconds"), [(60.0, 2 * OPEN_SECONDS), (FORGET_SECONDS + 1, OPEN_SECONDS)])
def test_an_ejection_is_forgotten_after_a_while(later: float, seconds: float) -> None:
    """One that fails again soon is out for longer, one that was well for long as for the first time."""
    health = after_answer(TRIED, NOW, trial=True)
    for _ in range(FAILURES):
        health = failed(health, NOW + later)
    assert health.until == NOW + later + seconds


def test_no_step_is_taken_that_the_table_lacks() -> None:
    """A closed breaker cannot become half-open."""
    with pytest.raises(AssertionError, match="cannot go from closed to half_open"):
        SOUND.entered(HALF_OPEN)


@pytest.mark.parametrize(("usable", "most"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (8, 4)], ids=str)
def test_most_of_a_model_stay(usable: int, most: int) -> None:
    """Never the last worker, never more than half."""
    assert [ejected for ejected in range(usable + 1) if may_eject(ejected, usable)] == list(range(most))


@pytest.mark.parametrize(
    ("health", "left", "said"),
    [
        (OUT, 12.0, "gets none for 12 s, then one to try it"),
        (OUT, 0.0, "the next request tries it"),
        (TRIED, 12.0, "the next request tries it"),
    ],
)
def test_a_person_is_told_what_comes_next(health: Health, left: float, said: str) -> None:
    """In the row of the worker."""
    assert said in explained(health, left)
