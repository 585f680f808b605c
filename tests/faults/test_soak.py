"""How `make soak` judges what it saw."""

import json
from collections import Counter

import pytest

from tests.faults.soak import End, Found, Look, end_of, judge, main, slope

DONE = 'data: {"choices": []}\n\ndata: [DONE]\n\n'
ERROR = 'data: {"error": {}}\n\n'
WHOLE = json.dumps({"choices": [{"finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("status", "text", "stream", "after", "end"),
    [
        (200, DONE, True, "", End.WHOLE),
        (200, 'data: {"choices": []}\n\n', True, "", End.UNTOLD),
        (200, ERROR, True, "", End.TOLD),
        (200, ERROR + DONE, True, "", End.UNTOLD),
        (200, WHOLE, False, "", End.WHOLE),
        (200, '{"choices"', False, "", End.UNTOLD),
        (503, '{"error": {}}', False, "5", End.TOLD),
        (503, '{"error": {}}', False, "", End.UNTOLD),
        (500, '{"error": {}}', True, "5", End.UNTOLD),
    ],
)
def test_an_end_is_whole_told_or_neither(status: int, text: str, stream: bool, after: str, end: End) -> None:
    """A stream that stops without a word and an error without a time to come back count as untold."""
    assert end_of(status, text, stream=stream, retry_after=after) is end


def looks(mib: float) -> list[Look]:
    """Return ten minutes in which memory grows by so many MiB a minute."""
    return [Look(at, int(2**20 * (100 + mib * at / 60)), 30, 4, 20) for at in range(5, 600, 5)]


def rests(**more: int) -> list[Look]:
    """Return a look before and after, with so much more at the second one."""
    before = {"rss": 0, "fds": 30, "threads": 4, "tasks": 20}
    return [Look(0, **before), Look(1, **{name: held + more.get(name, 0) for name, held in before.items()})]


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        (Found(looks=looks(0.9), rests=rests(fds=4, tasks=4)), set()),
        (Found(looks=looks(1.1), rests=rests()), {"rss MiB/min"}),
        (Found(looks=looks(0), rests=rests(fds=5)), {"more fds"}),
        (Found(looks=looks(0), rests=rests(threads=1)), {"more threads"}),
        (Found(Counter([End.UNTOLD]), looks=looks(0), rests=rests(tasks=5)), {"more tasks", "untold errors"}),
    ],
)
def test_what_grows_is_too_much(found: Found, broken: set[str]) -> None:
    """A MiB a minute, and what is there more when nobody asks."""
    assert {name for name, (seen, most) in judge(found).items() if seen > most} == broken


def test_the_slope_is_that_of_the_line() -> None:
    """In MiB a minute, whatever the size at the start."""
    assert slope(looks(2.5)) == pytest.approx(2.5, rel=0.001)


def test_help_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    """A run is bounded; one that is too short to judge is refused in a sentence."""
    with pytest.raises(SystemExit, match="2"):
        main(["--minutes", "1"])
    assert "is not between 2 and 1440" in capsys.readouterr().err
