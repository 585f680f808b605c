"""The parts of `make bench-worker` that need no server: figures, rounds and the reading of a streamed answer."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.worker import __main__ as program
from benchmarks.worker import asking, results
from benchmarks.worker.asking import Asked
from benchmarks.worker.results import WIDTHS, Found, Sample, Side
from benchmarks.worker.servers import BenchError, LengthError, Server

SERVER = Server(Side.OURS, 1, {"x-rbee-token": "t"})


def found(*, ours: float = 100.0, again: float = 100.0, server: float = 90.0, binding: float = 40.0) -> Found:
    """Return figures of two rounds in two moods of the machine."""
    measured = Found(rounds=2)
    rates = {Side.OURS: ours, Side.AGAIN: again, Side.LLAMA_SERVER: server, Side.LLAMA_CPP_PYTHON: binding}
    for mood in (1.0, 0.5):
        for width in WIDTHS:
            for shared in (True, False):
                for side, rate in rates.items():
                    sample = Sample()
                    first, gap = 10 / (rate * mood), 1 / (rate * mood)
                    sample.add(64 / (rate * mood), 64, [Asked(first, (gap, gap))] * width)
                    measured.add(width, side, sample, shared=shared)
    return measured


def test_figures_are_a_line_of_json() -> None:
    """Ratios are ours in theirs within a round, so that the machine's mood does not count."""
    assert json.loads(found(again=103.0).line()) == {
        "bench": "worker",
        "ratio_llama_server": {"1": 1.111, "4": 1.111, "8": 1.111},
        "ratio_llama_cpp_python": {"1": 2.5, "4": 2.5, "8": 2.5},
        "ttft_ratio": {"1": 0.9, "4": 0.9, "8": 0.9},
        "gap_ratio": {"1": 0.9, "4": 0.9, "8": 0.9},
        "shared": {"1": 1.111, "4": 1.111, "8": 1.111},
        "distinct": {"1": 1.111, "4": 1.111, "8": 1.111},
        "aa_spread": 0.029,
        "rounds": 2,
        "verdict": "met",
    }


@pytest.mark.parametrize(
    ("rates", "met"),
    [({}, True), ({"server": 101.0}, False), ({"binding": 44.0}, False), ({"server": 100.0, "binding": 43.0}, True)],
)
def test_the_verdict_is_of_every_goal(rates: dict[str, float], met: bool) -> None:
    """As fast as llama-server at every width, 2.3 times the binding's server at eight, and no later first token."""
    assert found(**rates).met is met


def test_the_worse_kind_of_prompts_counts() -> None:
    """A server that is fast with shared prompts alone has not met the goal."""
    measured = found()
    for each in measured.samples[8, False, Side.OURS]:
        each.seconds *= 2
    assert measured.worst(8, Side.LLAMA_SERVER) == pytest.approx(0.556, abs=0.001)
    assert measured.ratio(8, Side.LLAMA_SERVER, shared=True) == pytest.approx(1.111, abs=0.001)


@pytest.mark.parametrize(
    ("firsts", "first", "late"), [((1.0,), 1.0, 1.0), ((1.0, 3.0, 2.0), 2.0, 3.0), (tuple(range(1, 21)), 10.5, 19)]
)
def test_first_tokens_have_a_middle_and_a_late_end(firsts: tuple[float, ...], first: float, late: float) -> None:
    """The median, and what one in twenty waits longer than."""
    sample = Sample(firsts=list(firsts))
    assert (sample.first, sample.late) == (first, late)


def test_the_table_has_a_row_for_each_measurement() -> None:
    """Three widths, two kinds of prompts, four servers, and a head."""
    assert len(found().table().splitlines()) == 1 + 3 * 2 * 4


def test_each_side_is_as_often_in_each_place() -> None:
    """Over four turns nobody is always first."""
    places = Counter((at, side) for number in range(4) for at, side in enumerate(results.order(number)))
    assert set(places.values()) == {1}


def _answer(*events: Any, status: str = "200 OK") -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    reader.feed_data(f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\n\r\n{lines}data: [DONE]\n\n".encode())
    reader.feed_eof()
    return reader


def _piece(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


async def test_tokens_of_a_stream_are_counted() -> None:
    """Events without text, such as the role, are none."""
    asked = await asking._read(SERVER, _answer(_piece(""), *[_piece("x")] * asking.TOKENS), 0.0)
    assert len(asked.gaps) == asking.TOKENS - 1
    assert asked.first > 0
    assert min(asked.gaps) >= 0


def test_turns_of_a_round_add_up() -> None:
    """A side's speed is all its tokens in all its seconds, not the mean of its turns."""
    sample = Sample()
    sample.add(1.0, 64, [Asked(0.25, (0.5, 0.25))])
    sample.add(3.0, 64, [Asked(0.75, (0.75,))])
    assert (sample.rate, sample.first, sample.gap) == (32.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (lambda: _answer(status="503 Busy"), "503"),
        (lambda: _answer({"error": {"message": "broken"}}), "broken"),
        (lambda: _answer(_piece("x")), "1 pieces where 64"),
        (lambda: _answer(*[_piece("x")] * 65), "65 pieces where 64"),
    ],
)
async def test_what_is_no_answer_is_no_figure(reader: Any, said: str) -> None:
    """A refusal, an error within a stream, and an answer of another length stop the measurement with a sentence."""
    with pytest.raises(BenchError, match=said):
        await asking._read(SERVER, reader(), 0.0)


@pytest.mark.parametrize(("short", "seconds"), [(1, True), (asking.TRIES, False)])
async def test_an_answer_that_ends_early_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, short: int, seconds: bool
) -> None:
    """With another question, a few times; what a server always does ends the measurement."""
    marks: list[str] = []

    async def ask(_server: Server, mark: str, *, shared: bool) -> Asked:
        marks.append(mark)
        if len(marks) <= 2 * short and mark.startswith("m-1"):
            raise LengthError("answered in 3 pieces")
        return Asked(0.1, (0.1,)) if shared else Asked(0.2, (0.1,))

    monkeypatch.setattr(asking, "_ask", ask)
    if seconds:
        found = await asking.clients(SERVER, 2, "m", shared=True)
        assert (found[0] < 5, len(found[1]), marks) == (True, 2, ["m-0", "m-1", "m-0+", "m-1+"])
    else:
        with pytest.raises(LengthError):
            await asking.clients(SERVER, 2, "m", shared=True)


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--rounds", "31"], ["--threads", "0"], ["--threads", "9999"]])
def test_what_cannot_be_measured_is_a_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Out of bounds is exit status 2, with the bounds."""
    with pytest.raises(SystemExit) as left:
        program.read_options(argv)
    assert left.value.code == 2
    assert "is not between 1 and" in capsys.readouterr().err
