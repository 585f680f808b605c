"""`systemctl status rbee-hive` names what is in the way of a wanted model."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from rbee_runtime.hive import reports
from rbee_runtime.hive.details import detail
from rbee_runtime.protocol import FetchReport, ModelSpec
from rbee_runtime.states import FetchState
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports
from tests.unit.hive.waiting import until


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a hive."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(2)), ScriptedLauncher(clock), clock)
    yield made
    await made.close()


async def test_a_model_that_cannot_be_fetched_is_in_the_status_line(hive: Rig, tmp_path: Path) -> None:
    """The line has the model and the sentence of its failure beside the workers and the queen."""
    gone = tmp_path / "gone.gguf"
    held = document(1, worker("a"))
    await hive.follow(replace(held, models=(ModelSpec(name="m", source=f"file:{gone}"),)))
    await until(lambda: hive.supervisor.fetching.fetches[0].state is FetchState.FAILED)
    said = reports.summary(hive.supervisor, queen="reachable")
    assert said.startswith(f"0 workers ready, 1 fetching, queen reachable, model m: {gone} is not a file here")
    report = hive.report("a")
    assert report is not None
    step = detail("h1", report, hive.supervisor, now=hive.clock()).next_step
    assert re.fullmatch(r"its model is fetched again in \d+ s, and at once when its source .* changes", step)


def test_the_status_line_stays_one_line() -> None:
    """Long sentences are cut, and of many the first ones are told and how many more there are."""
    told = reports.shortened(["x" * 1000, *(f"model {number} is gone" for number in range(6))])
    assert (len(told), [len(each) for each in told][:1]) == (4, [reports.MOST_LETTERS])
    assert told[0].endswith("x…")
    assert told[1:] == [
        "model 0 is gone",
        "model 1 is gone",
        "and 4 more: see `rbee-keeper models` and `rbee-keeper workers`",
    ]
    assert reports.shortened(["a", "b", "c"]) == ["a", "b", "c"]


def test_many_models_that_fail_alike_are_counted() -> None:
    """The first names stand for all."""
    fetches = [FetchReport(name=f"m{number}", state=FetchState.FAILED, detail="no disk") for number in range(7)]
    assert reports.unfetched(fetches) == ["models m0, m1, m2, m3, m4 and 2 more: no disk"]


def test_one_reason_for_several_models_is_told_once() -> None:
    """Models that fail alike share a sentence; one that is on its way has none."""
    fetches = [
        FetchReport(name="a", state=FetchState.FAILED, detail="the models folder is gone"),
        FetchReport(name="b", state=FetchState.FAILED, detail="the models folder is gone"),
        FetchReport(name="c", state=FetchState.DISK_FULL, detail="model c: no room"),
        FetchReport(name="d", state=FetchState.FETCHING, detail="the model store has not answered"),
    ]
    assert reports.unfetched(fetches) == ["models a, b: the models folder is gone", "model c: no room"]
