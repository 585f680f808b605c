"""Health of a worker from its probes."""

from dataclasses import replace

import pytest

from rbee_runtime.hive.decisions import HUNG_SECONDS
from rbee_runtime.hive.health import Answer, Health, observe

YES = Answer(reached=True, ready=True, spec="abc", in_flight=2)
BUSY = Answer(reached=True, ready=False, said="loading 40 %")
NONE = Answer(reached=False, said="timed out")
SILENT = [(2.0 * number, NONE) for number in range(1, 6)]


def after(*answers: tuple[float, Answer]) -> Health:
    health = None
    for at, answer in answers:
        health = observe(health, answer, now=at)
    assert health is not None
    return health


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        ([(0, YES)], True),
        ([(0, BUSY)], False),
        ([(0, NONE)], False),
        ([(0, NONE), (2, YES)], True),
        ([(0, YES), *SILENT[:4]], True),
        ([(0, YES), *SILENT], False),
        ([(0, YES), *SILENT, (12, YES)], False),
        ([(0, YES), *SILENT, (12, YES), (14, YES)], True),
        ([(0, YES), *SILENT, (12, YES), (14, NONE), (16, YES)], False),
        ([(0, YES), (2, NONE), (4, NONE), (602, NONE)], True),
        ([(0, YES), (2, BUSY)], False),
        ([(0, YES), (2, BUSY), (4, YES)], True),
    ],
)
def test_readiness_follows_the_probes(answers: list[tuple[float, Answer]], ready: bool) -> None:
    """Ready at the first good answer, out after 10 s of silence or one refusal, back after two good ones if silent."""
    assert after(*answers).ready is ready


def test_silence_keeps_what_was_known() -> None:
    """The spec and the requests in flight last heard of stay; the reason of the silence is told."""
    health = after((0, YES), (2, NONE), (4, NONE))
    assert (health.spec, health.in_flight, health.silent_since, health.said) == ("abc", 2, 2, "timed out")


@pytest.mark.parametrize(
    ("seconds", "hung"),
    [
        ([2.0 * number for number in range(1, 61)], True),
        ([2.0 * number for number in range(1, 60)], False),
        ([2.0, 602.0], False),
        ([2.0, 602.0, 1202.0, 1802.0], False),
        ([600.0 + 2.0 * number for number in range(1, 61)], True),
    ],
    ids=["sixty failed probes", "one less", "a gap between two", "a hive that stalls again and again", "after a gap"],
)
def test_silence_is_what_failed_probes_have_witnessed(seconds: list[float], hung: bool) -> None:
    """Failed probes at the schedule reach the limit of a hung worker; minutes in which nobody asked add nothing."""
    health = after((0, YES), *((at, NONE) for at in seconds))
    assert (health.silent >= HUNG_SECONDS) is hung


def test_an_answer_ends_the_silence() -> None:
    """One answer of any kind takes all failed probes back."""
    health = after((0, YES), *((2.0 * number, NONE) for number in range(1, 59)), (118.0, BUSY))
    assert (health.silent, health.silent_since) == (0.0, None)


def test_how_much_is_loaded_is_kept_while_it_says_nothing() -> None:
    """The share of a loading model is that of the last answer which had one."""
    assert after((0, replace(BUSY, loaded=0.4)), (1, BUSY), (2, NONE)).loaded == 0.4
