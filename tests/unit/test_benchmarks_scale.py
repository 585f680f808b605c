"""What `make bench-scale` runs and says: the fleet, its certificates, its hives, goals and the line of JSON."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import __main__ as program
from benchmarks.scale.hives import START_SECONDS, WORKER_BYTES, Hive, Hives, name_of
from benchmarks.scale.results import LEAST_PLACEMENTS, Found, Placement, Verdict, lost_of, placements_of
from rbee_runtime.config import FleetFile
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Desired, WorkerSpec
from rbee_runtime.states import Observed

PLANNED = 'info event="load planned" model=c1 ms=4.000 processor_ms=3.000 written_ms=12.000'
FAST = Placement(0.002, 0.002, 0.012)


def found(**changed: Any) -> Found:
    """Return figures that meet every goal, with some of them changed."""
    values = {"core_pct": 12.0, "rss_mib": 200.0, "join_s": 9.0, "placements": [FAST] * LEAST_PLACEMENTS, **changed}
    return Found(1000, 5000, **values)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.MET),
        ({"core_pct": 25.0}, Verdict.NOT_MET),
        ({"rss_mib": 400.0}, Verdict.NOT_MET),
        ({"placements": [FAST] * 20 + [Placement(0.006, 0.0, 0.006)]}, Verdict.NOT_MET),
        ({"placements": [FAST]}, Verdict.UNDECIDED),
        ({"failed": 1}, Verdict.UNDECIDED),
        ({"core_pct": None}, Verdict.UNDECIDED),
    ],
)
def test_every_goal_counts(changed: dict[str, Any], verdict: Verdict) -> None:
    """A figure at its limit misses it; too few placements and requests that failed leave it open."""
    assert found(**changed).verdict is verdict


def test_figures_are_a_table_and_a_line_of_json() -> None:
    """With the goals' names in front; what was not measured is null, and a dash in the table."""
    line = json.loads(found(answers=[0.004]).line())
    assert list(line)[:5] == ["bench", "core_pct", "placement_p99_ms", "rss_mib", "join_s"]
    assert (line["placement_p99_ms"], line["answer_p99_ms"], line["list_p99_ms"]) == (2.0, 4.0, None)
    assert line["placement_written_p99_ms"] == 12.0
    assert (line["hives"], line["workers"], line["verdict"]) == (1000, 5000, "met")
    rows = found().table().splitlines()
    assert rows[1].split()[-2:] == ["12.00", "25"]
    assert rows[-6].split()[-1] == "-"


def test_placements_are_read_from_the_log() -> None:
    """By the clock, its processor time, until it was on the disk; lines of other events count for nothing."""
    log = f'info event=worker seconds=3\n{PLANNED}\ninfo event="hive heard" hive=a\n'
    assert (placements_of(log), lost_of(log)) == ([Placement(0.004, 0.003, 0.012)], 1)


def test_the_fleet_has_as_many_workers_as_it_says() -> None:
    """Of models that are kept up; others are there to be asked for."""
    declared = FleetFile.model_validate(program.fleet(100))
    assert sum(model.replicas_min for model in declared.models) == 100 * program.WORKERS_PER_HIVE
    assert sum(not model.replicas_min for model in declared.models) == program.COLD
    assert len(declared.hives) == 100


def test_each_hive_has_a_certificate_of_its_own(tmp_path: Path) -> None:
    """By which the queen knows it."""
    pki = program.certificates(tmp_path, 2)
    assert all(Link(Role.HIVE, "scale", pki / name_of(number)).client_context() for number in range(2))
    first, second = ((pki / name_of(number) / "hive.pem").read_text() for number in range(2))
    assert first != second


async def test_a_hive_starts_what_its_document_says() -> None:
    """It takes a moment, and again once it is started over; what it books is known from the start."""
    hive = Hive("h0000", "https://127.1.0.1:1", 9000)
    spec = WorkerSpec(id="m-1", model="m", engine="fake", devices=("GPU-1",))
    hive.take(Desired(fleet="scale", epoch=1, revision=2, hive="h0000", workers=(spec,)))
    told = hive.compose()
    assert [(each.state, each.need) for each in told.workers] == [(Observed.STARTING, WORKER_BYTES)]
    assert [device.used for device in told.devices] == [0, WORKER_BYTES]
    hive.started["m-1"] = time.monotonic() - START_SECONDS
    assert (hive.compose().workers[0].state, hive.ready()) == (Observed.READY, 1)
    hive.restart("m-1")
    assert hive.ready() == 0


def test_hives_have_addresses_of_their_own() -> None:
    """Each is another host to the queen."""
    assert len({hive.url for hive in Hives(1000, 9402, 9403).all.values()}) == 1000


@pytest.mark.parametrize("line", [["--hives", "49"], ["--hives", "2001"], ["--seconds", "19"], ["--seconds", "nan"]])
def test_a_size_that_cannot_be_measured_is_refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A figure made of nothing would be believed."""
    with pytest.raises(SystemExit, match="2"):
        program.read_options(line)
    assert f"error: {' '.join(line)} is not between " in capsys.readouterr().err
