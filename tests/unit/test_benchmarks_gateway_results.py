"""What `make bench-gateway` says of its figures: goals, remarks, the table and the line of JSON."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.gateway import results
from benchmarks.gateway.results import Found, Sample, Side, Verdict

SAMPLES = {
    Side.QUEEN: Sample(30000, 3000, 0.99, 0.01, 15, 0.5, 2.0),
    Side.QUEEN_TLS: Sample(20000, 2500, 0.99, 0.01, 20, 0.6, 2.5),
    Side.AGAIN: Sample(31250, 3125, 0.99, 0.01, 15, 0.5, 2.0),
    Side.VLLM_ROUTER: Sample(15000, 2500, 0.99, 0.01, 12, 0.4, 1.5),
    Side.LITELLM: Sample(50, 10, 0.99, 0.01),
    Side.NGINX: Sample(50000, 8000, 0.8, 0.01, 5, 0.3, 1.0),
    Side.DIRECT: Sample(60000, 9000, None, None, None, 0.2, 0.5),
}


def found(changed: dict[Side, dict[str, Any]] | None = None, *, lost: tuple[Side, ...] = ()) -> Found:
    """Return figures of two rounds in two moods of the machine, with some of them changed and some sides absent."""
    samples = {side: replace(sample, **(changed or {}).get(side, {})) for side, sample in SAMPLES.items()}
    there = {side: sample for side, sample in samples.items() if side not in lost}
    slow = {side: replace(sample, json=sample.json / 2, sse=sample.sse / 2) for side, sample in there.items()}
    together: dict[Side, int] = {side: results.TOGETHER for side in there if side not in (Side.LITELLM, Side.AGAIN)}
    absent = dict.fromkeys(lost, "no such package")
    return Found(rounds=[there, slow], together=together, versions={Side.NGINX: "1.22.1"}, absent=absent)


def test_figures_are_a_line_of_json() -> None:
    """Figures are medians, ratios are ours in theirs within a round; what was not measured is null."""
    line = json.loads(found().line())
    assert list(line)[:5] == ["bench", "json_rps", "sse_rps", "us_per_chunk", "ratio_vllm_router"]
    assert line["json_rps"]["queen"] == 22500
    assert line["us_per_chunk"]["litellm"] is None
    assert (line["ratio_vllm_router"], line["ratio_litellm"]) == ({"json": 2.0, "sse": 1.2}, {"json": 600, "sse": 300})
    assert line["added_ms"] == {"p50": 0.3, "p99": 1.5}
    assert line["queen_tls"]["ratio_vllm_router"] == {"json": 1.333, "sse": 1.0}
    assert (line["aa_spread"], line["versions"], line["rounds"]) == (0.04, {"nginx": "1.22.1"}, 2)
    assert line["streams_2000"]["queen_tls"] == 2000
    assert line["verdict"] == "met"


@pytest.mark.parametrize(
    "changed",
    [
        {Side.QUEEN: {"json": 29999.0}},
        {Side.VLLM_ROUTER: {"sse": 2800.0}},
        {Side.LITELLM: {"sse": 31.0}},
        {Side.QUEEN: {"p50": 0.71}},
        {Side.QUEEN: {"p99": 3.51}},
    ],
)
def test_each_goal_can_be_missed(changed: dict[Side, dict[str, Any]]) -> None:
    """One figure that is not good enough is enough, and its sentence says so."""
    missed = found(changed)
    assert missed.verdict is Verdict.NOT_MET
    assert [goal.sentence().endswith(": not met") for goal in missed.goals()].count(True) == 1


def test_what_the_queen_cannot_do_is_a_goal_missed() -> None:
    """A queen that takes no steady pace has no added time, and is not excused by that."""
    weak = found({Side.QUEEN: {"p50": None, "p99": None}})
    del weak.together[Side.QUEEN]
    assert weak.verdict is Verdict.NOT_MET
    assert [goal.met for goal in weak.goals()].count(False) == 3


def test_on_a_busy_machine_nothing_is_decided() -> None:
    """What others took of the core is in every figure; what a full core would give is told all the same."""
    busy = found({Side.QUEEN: {"core": 0.5, "foreign": 0.4, "json": 15000.0}})
    assert busy.verdict is Verdict.UNDECIDED
    assert busy.remarks()[-1] == "others of this machine took 40% of the gateways' core: measure on a quieter one"
    assert json.loads(busy.line())["full_core"]["queen"] == 22500


@pytest.mark.parametrize("side", [Side.QUEEN, Side.QUEEN_TLS])
def test_every_stream_has_to_pass(side: Side) -> None:
    """One of two thousand that does not is a missed goal."""
    missed = found()
    missed.together[side] = 1999
    assert missed.verdict is Verdict.NOT_MET


@pytest.mark.parametrize("side", [Side.VLLM_ROUTER, Side.LITELLM])
def test_without_a_peer_nothing_is_decided(side: Side) -> None:
    """Its ratios are null, a sentence says why, and a goal that is missed stays so."""
    without = found(lost=(side,))
    assert json.loads(without.line())[f"ratio_{side}"] == {"json": None, "sse": None}
    assert f"{side} could not be measured here: no such package" in without.remarks()
    assert without.verdict is Verdict.UNDECIDED
    assert found({Side.QUEEN: {"p50": 9.0}}, lost=(side,)).verdict is Verdict.NOT_MET


def test_a_figure_that_a_round_lacks_is_none() -> None:
    """A median of the rounds that went well would flatter."""
    partly = found()
    partly.rounds[1] = {**partly.rounds[1], Side.QUEEN: replace(SAMPLES[Side.QUEEN], chunk=None)}
    assert partly.figure(Side.QUEEN, "us_per_chunk") is None
    assert "queen has its core full before 300 live streams run: no price of a chunk" in partly.remarks()


def test_remarks_tell_whose_figures_are_not_its_own() -> None:
    """Who left its core idle could have answered more; who is too slow was not asked for more."""
    assert found().remarks() == [
        "litellm takes too few streams a second for 200 a second and 2000 together",
        "litellm has its core full before 300 live streams run: no price of a chunk",
        "nginx left 19% of its core idle: others were the bound",
    ]
    assert Side.LITELLM not in found().steady()


def test_the_table_has_a_row_for_each_side() -> None:
    """Cells stand under their heads."""
    lines = found().table().splitlines()
    assert len(lines) == 1 + len(Side)
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("values", "share", "value"), [([3, 1, 2], 0.5, 2), ([1], 0.99, 1), (range(800), 0.99, 791), (range(800), 0.5, 399)]
)
def test_a_quantile_is_one_of_the_values(values: Any, share: float, value: float) -> None:
    """The smallest that so many do not exceed."""
    assert results.quantile(values, share) == value


def test_each_side_is_as_often_in_each_place() -> None:
    """Over as many rounds as sides nobody is always first."""
    sides = tuple(Side)
    places = Counter((at, side) for number in range(len(sides)) for at, side in enumerate(results.order(sides, number)))
    assert set(places.values()) == {1}
