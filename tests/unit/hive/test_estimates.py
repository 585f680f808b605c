"""Peaks of memory over restarts of the hive."""

from pathlib import Path

import msgspec
import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.hive.estimates import Estimates, key
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.memory import Memory
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.hive.scene import ModelState
from rbee_runtime.protocol import DeviceReport, WorkerSpec

KEY = key(content="c", engine="fake", context=4096, slots=1, device="card")


def test_the_highest_figure_is_kept(tmp_path: Path) -> None:
    """A later, lower measurement changes nothing, and the next hive knows the peak."""
    estimates = Estimates(tmp_path)
    for size in (100, 300, 200):
        estimates.observe(KEY, size)
    estimates.save(now=50.0)
    assert Estimates(tmp_path).peak(KEY) == 300


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2, "peaks": {"k": 1}}', '{"peaks": {"k": "x"}}'])
def test_a_file_that_cannot_be_used_begins_anew(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage and an unknown newer schema cost the estimates, are told, and the next save replaces the file."""
    (tmp_path / "estimates.json").write_text(content)
    estimates = Estimates(tmp_path)
    assert (estimates.peak("k"), "begin anew" in capsys.readouterr().err) == (None, True)
    estimates.observe(KEY, 5)
    estimates.save(now=50.0)
    assert Estimates(tmp_path).peak(KEY) == 5


def test_a_disk_that_takes_nothing_costs_nothing(tmp_path: Path) -> None:
    """What could not be written is written later."""
    folder = tmp_path / "state"
    folder.write_text("no folder")
    estimates = Estimates(folder)
    estimates.observe(KEY, 5)
    estimates.save(now=50.0)
    folder.unlink()
    estimates.save(now=60.0)
    assert Estimates(folder).peak(KEY) is None
    estimates.save(now=90.0)
    assert Estimates(folder).peak(KEY) == 5


def test_what_was_seen_replaces_what_was_guessed(tmp_path: Path) -> None:
    """A model that never ran counts with its files and a tenth; once it was ready with what it really took."""
    card = DeviceReport(id="G", kind="nvidia", name="card", total=1000, used=300, foreign=0)
    scan = Scan((card,), processes={"G": {7: 300}})
    spec = WorkerSpec(id="w", model="m", engine="fake", devices=("G",))
    model = ModelState(ready=True, basis="c", size=200)
    memory = Memory(tmp_path, devices=lambda: scan, clock=lambda: 100.0)
    memory.tick({}, {})
    guessed = memory.need(spec, model)
    held = WorkerRecord(id="w", model="m", engine="fake", context=4096, basis="c/k", devices=("G",))
    for ready_since, figure in ((None, 220), (90.0, 300)):
        record = msgspec.structs.replace(held, ready_since=ready_since)
        memory.tick({"w": UnitStatus("w", Phase.RUNNING, pid=7)}, {"w": record})
        assert (guessed, memory.need(spec, model)) == (220, figure)
