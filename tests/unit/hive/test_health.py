"""Health of a worker from its probes."""

import pytest

from rbee_runtime.hive.health import Answer, Health, observe

YES = Answer(reached=True, ready=True, spec="abc", in_flight=2)
BUSY = Answer(reached=True, ready=False, said="loading 40 %")
NONE = Answer(reached=False, said="timed out")


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
        ([(0, YES), (2, NONE), (11.9, NONE)], True),
        ([(0, YES), (2, NONE), (12, NONE)], False),
        ([(0, YES), (2, NONE), (12, NONE), (14, YES)], False),
        ([(0, YES), (2, NONE), (12, NONE), (14, YES), (16, YES)], True),
        ([(0, YES), (2, NONE), (12, NONE), (14, YES), (16, NONE), (18, YES)], False),
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
