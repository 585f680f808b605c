"""How `make soak` judges what it saw."""

import json

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


def looks(*, mib: float = 0.0, fds: int = 0) -> list[Look]:
    """Return ten minutes in which memory grows by so many MiB a minute, and descriptors by so many a look."""
    return [
        Look(at, int(2**20 * (100 + mib * at / 60)), 30 + index * fds, 4, 20)
        for index, at in enumerate(range(5, 600, 5))
    ]


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        (Found(looks=looks(mib=0.9)), set()),
        (Found(looks=looks(mib=1.1)), {"rss MiB/min"}),
        (Found(looks=looks(fds=1)), {"more fds"}),
        (Found(looks=looks()), set()),
    ],
)
def test_what_grows_is_too_much(found: Found, broken: set[str]) -> None:
    """A MiB a minute, and what is there more even at quiet moments."""
    assert {name for name, (seen, most) in judge(found).items() if seen > most} == broken


def test_the_slope_is_that_of_the_line() -> None:
    """In MiB a minute, whatever the size at the start."""
    assert slope(looks(mib=2.5)) == pytest.approx(2.5, rel=0.001)


def test_help_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    """A run is bounded; one that is too short to judge is refused in a sentence."""
    with pytest.raises(SystemExit, match="2"):
        main(["--minutes", "1"])
    assert "is not between 2 and 1440" in capsys.readouterr().err
