"""The parts of `make bench-container` that need no host: figures, rounds and the reading of a streamed answer."""

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.container import __main__ as program
from benchmarks.container import asking, results
from benchmarks.container.asking import Answer, BenchError
from benchmarks.container.results import Found, Round, Sample, Verdict, Way

SPEEDS = {Way.BARE: 100.0, Way.PODMAN: 100.0, Way.PEER: 100.0, Way.DOCKER: 100.0}


def a_round(mood: float = 1.0, **speeds: float) -> Round:
    """Return a round of a machine in some mood; the first token takes as long as ten others."""
    rates = {way: mood * speeds.get(way.value, usual) for way, usual in SPEEDS.items()}
    return {way: Sample(rate, first=10 / rate) for way, rate in rates.items()}


def found(*rounds: Round) -> Found:
    """Return figures with these rounds; the second bare worker starts slower."""
    starts = {Way.BARE: [2.0, 2.2], Way.PODMAN: [3.0, 9.0, 3.5], Way.PEER: [2.4, 2.6], Way.DOCKER: [4.0]}
    memory = {Way.BARE: 200.0, Way.PODMAN: 202.0, Way.PEER: 201.0, Way.DOCKER: 210.04}
    return Found({"worker-llama-cpp": 310.26}, list(rounds), starts, memory)


def test_figures_are_a_line_of_json() -> None:
    """The slower engine's ratio is the ratio, both bare workers are one, and medians of starts count."""
    measured = found(*(a_round(podman=99.6, docker=99.2, peer=100.0) for _ in range(3)))
    assert json.loads(measured.line()) == {
        "bench": "container",
        "ratio": 0.992,
        "aa": 1.0,
        "image_mib": {"worker-llama-cpp": 310.3},
        "cold_start_s": {"bare": 2.3, "podman": 3.5, "docker": 4.0},
        "tokens_ratio": {"podman": 0.996, "docker": 0.992},
        "ttft_ratio": {"podman": 1.004, "docker": 1.0081},
        "idle_mib": {"bare": 200.5, "podman": 202.0, "docker": 210.0},
        "rounds": 3,
        "verdict": "met",
    }


def test_a_machine_that_changes_its_mood_changes_no_ratio() -> None:
    """Workers are compared within a round, so that a slow round is slow for all; one odd round does not count."""
    moods = (1.0, 0.5, 2.0, 0.7)
    measured = found(*(a_round(mood, podman=99.0, docker=98.0) for mood in moods), a_round(podman=10.0, peer=300.0))
    assert measured.aa == pytest.approx(1)
    assert measured.rate_ratio(Way.PODMAN) == pytest.approx(0.99)
    assert measured.ratio == pytest.approx(0.98)


@pytest.mark.parametrize(
    ("speeds", "verdict"),
    [
        ({"podman": 99.5, "docker": 99.1}, Verdict.MET),
        ({"podman": 99.5, "docker": 98.0}, Verdict.NOT_MET),
        ({"podman": 98.0, "docker": 99.5}, Verdict.NOT_MET),
        ({"podman": 120.0, "docker": 120.0}, Verdict.MET),
        ({"peer": 102.0}, Verdict.UNDECIDED),
        ({"peer": 98.0, "podman": 50.0}, Verdict.UNDECIDED),
    ],
)
def test_a_verdict_needs_two_bare_workers_that_agree(speeds: dict[str, float], verdict: Verdict) -> None:
    """Where they differ by more than the goal allows, neither success nor failure is said."""
    measured = found(a_round(**speeds))
    assert measured.verdict is verdict
    assert f"goal >= 0.99: {verdict}" in measured.goal()
    assert ("quieter machine" in measured.goal()) is (verdict is Verdict.UNDECIDED)


@pytest.mark.parametrize(
    ("peer", "count", "over"),
    [(100.0, 3, False), (100.0, 4, True), (103.0, 4, False), (103.0, 7, False), (103.0, 8, True)],
)
def test_rounds_go_on_until_they_decide(peer: float, count: int, over: bool) -> None:
    """Luck in the first rounds ends nothing, and a restless machine does not measure for ever."""
    assert results.enough(found(*(a_round(peer=peer) for _ in range(count))), 4, 8) is over


@pytest.mark.parametrize(
    ("line", "least", "most"),
    [
        ([], 12, 48),
        (["--most", "6"], 6, 6),
        (["--rounds", "20"], 20, 48),
        (["--rounds", "5", "--most", "6"], 5, 6),
    ],
)
def test_options_choose_rounds(line: list[str], least: int, most: int) -> None:
    """A smaller bound is a shorter run without another option."""
    options = program.read_options(line)
    assert (options.rounds, options.most) == (least, most)


def test_more_rounds_than_the_most_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Two options that contradict each other are one sentence."""
    with pytest.raises(SystemExit, match="2"):
        program.read_options(["--rounds", "20", "--most", "10"])
    assert "error: --rounds 20 is not between 1 and 10" in capsys.readouterr().err


def test_nothing_is_decided_before_the_first_round() -> None:
    """A run without a round asks for one instead of for its median."""
    assert not results.enough(Found(), 1, 8)


def test_everybody_is_as_often_in_each_place() -> None:
    """What a place in a round does to a worker it does to all, and two bare workers never follow each other."""
    orders = [results.order(number) for number in range(8)]
    assert Counter((place, way) for each in orders for place, way in enumerate(each)) == {
        (place, way): 2 for place in range(4) for way in Way
    }
    for each in orders:
        assert [way.shown == "bare" for way in each] in ([True, False, True, False], [False, True, False, True])


def test_the_table_has_a_row_for_each_worker() -> None:
    """Both bare workers are shown, with medians and how each compares."""
    rows = [line.split() for line in found(a_round(podman=99.0)).table().splitlines()]
    assert [row[0] for row in rows] == ["worker", *Way]
    assert rows[2] == ["podman", "99.00", "0.9900", "101.0", "1.0101", "3.50", "202.0"]


def test_speed_is_of_the_tokens_after_the_first() -> None:
    """Reading the question counts in the first token's time and not in the speed; long answers count for more."""
    answers = [Answer("a", 11, first=0.25, rest=1.0), Answer("b", 31, first=0.75, rest=1.0)]
    assert asking.sample(answers) == Sample(rate=20.0, first=0.5)


def event(content: str | None = None, **fields: Any) -> str:
    choices = [] if content is None else [{"delta": {"content": content}}]
    return "data: " + json.dumps({"choices": choices, **fields})


def test_an_answer_is_read_with_its_times() -> None:
    """Only lines with text have a time that counts; the number of tokens is what the worker says."""
    lines = [
        (1.0, 'data: {"choices": [{"delta": {"role": "assistant"}}]}'),
        (1.5, event("Once")),
        (1.5, ""),
        (2.0, event(" upon")),
        (3.0, event(" a")),
        (3.5, event("")),
        (3.6, event(usage={"completion_tokens": 4})),
        (3.7, "data: [DONE]"),
    ]
    assert asking.read("m", 1.0, iter(lines)) == Answer("Once upon a", 4, first=0.5, rest=1.5)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([event("One"), event(usage={"completion_tokens": 1})], "answered 1 token.*too few to measure"),
        ([event("One"), event(" two")], "answered 0 token.*too few to measure"),
        ([event("One"), 'data: {"error": {"message": "gone"}}'], "m ended its answer with an error: .*gone"),
        ([], "too few to measure"),
    ],
)
def test_what_is_no_answer_is_no_figure(lines: list[str], says: str) -> None:
    """An answer that broke off or says too little is a sentence instead of a speed."""
    with pytest.raises(BenchError, match=says):
        asking.read("m", 0.0, ((float(at), line) for at, line in enumerate(lines, 1)))
