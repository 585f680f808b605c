"""Peaks of memory over restarts of the hive."""

from pathlib import Path

import msgspec
import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.hive.estimates import Estimates, key
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.ledger import wait
from rbee_runtime.hive.memory import STUBBORN_REPEATS, STUBBORN_SECONDS, Memory
from rbee_runtime.hive.records import WorkerRecord, options_mark
from rbee_runtime.hive.scene import ModelState
from rbee_runtime.protocol import DeviceReport, WorkerSpec
from tests.unit.damage import UNREADABLE

KEY = key(content="c", engine="fake", context=4096, slots=1, device="card")


def test_the_highest_figure_is_kept(tmp_path: Path) -> None:
    """A later, lower measurement changes nothing, and the next hive knows the peak."""
    estimates = Estimates(tmp_path)
    for size in (100, 300, 200):
        estimates.observe(KEY, size)
    estimates.save(now=50.0)
    assert Estimates(tmp_path).peak(KEY) == 300


@pytest.mark.parametrize("content", [*UNREADABLE, b'{"schema": 2, "peaks": {"k": 1}}', b'{"peaks": {"k": "x"}}'])
def test_a_file_that_cannot_be_used_begins_anew(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage and an unknown newer schema cost the estimates, are told, and the next save replaces the file."""
    (tmp_path / "estimates.json").write_bytes(content)
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


CPU = DeviceReport(id="cpu", kind="cpu", name="processor", total=1000, used=300, foreign=0)
CARD = DeviceReport(id="G", kind="nvidia", name="card", total=1000, used=300, foreign=0)
READY = WorkerRecord(id="w", model="m", engine="fake", context=4096, basis="c/k", ready_since=90.0)
RUNS = {"w": UnitStatus("w", Phase.RUNNING, pid=7)}


def learnt(folder: Path, device: DeviceReport, taken: int, *, of: WorkerSpec) -> Memory:
    """Return a memory that saw a ready worker of this spec take so much of a device."""
    scan = Scan((device,), processes={device.id: {7: taken}})
    memory = Memory(folder, devices=lambda: scan, clock=lambda: 100.0)
    record = msgspec.structs.replace(READY, devices=of.devices, options=options_mark(of))
    memory.tick(RUNS, {"w": record})
    return memory


@pytest.mark.parametrize(("taken", "need"), [(20, 220), (400, 400)], ids=["weights are mapped", "more than guessed"])
def test_on_the_processor_the_estimate_holds_what_no_process_shows(tmp_path: Path, taken: int, need: int) -> None:
    """Mapped weights are page cache to every measurement, so a small figure does not replace the estimate."""
    spec = WorkerSpec(id="w", model="m", engine="fake")
    memory = learnt(tmp_path, CPU, taken, of=spec)
    assert memory.need(spec, ModelState(ready=True, basis="c", size=200)) == need


@pytest.mark.parametrize(
    "changes", [{"options": {"cache": "q8_0"}}, {"options": {"cache": "f16", "batch": 1}}, {"devices": ("G", "H")}]
)
def test_what_was_seen_of_other_settings_is_not_used(tmp_path: Path, changes: dict[str, object]) -> None:
    """A peak counts for the same engine options and number of devices alone."""
    spec = WorkerSpec(id="w", model="m", engine="fake", devices=("G",), options={"cache": "f16"})
    memory = learnt(tmp_path, CARD, 300, of=spec)
    model = ModelState(ready=True, basis="c", size=200)
    other = msgspec.structs.replace(spec, **changes)
    assert (memory.need(spec, model), memory.need(other, model) == 300) == (300, False)


def test_a_file_of_the_version_before_still_counts(tmp_path: Path) -> None:
    """Peaks that were kept before options were told apart hold for workers without any."""
    (tmp_path / "estimates.json").write_text('{"schema": 1, "peaks": {"c/fake/4096/1/card": 321}}')
    scan = Scan((CARD,))
    memory = Memory(tmp_path, devices=lambda: scan, clock=lambda: 100.0)
    memory.tick({}, {})
    spec = WorkerSpec(id="w", model="m", engine="fake", devices=("G",))
    assert memory.need(spec, ModelState(ready=True, basis="c", size=200)) == 321


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({"stop_asked": 95.0}, True),
        ({"stop_asked": 95.0, "stop_repeats": STUBBORN_REPEATS}, False),
        ({"stop_asked": 100.0 - STUBBORN_SECONDS}, False),
        ({"ready_since": None}, True),
    ],
    ids=["ends", "killed again and again", "ends for ever", "loads"],
)
def test_a_worker_that_cannot_be_ended_keeps_nobody_waiting(
    tmp_path: Path, changes: dict[str, object], waits: bool
) -> None:
    """Its memory stays counted, but neither its load nor its end holds up the card's other workers for ever."""
    scan = Scan((CARD,), processes={"G": {7: 300}})
    memory = Memory(tmp_path, devices=lambda: scan, clock=lambda: 100.0)
    record = msgspec.structs.replace(READY, devices=("G",), **{"ready_since": None, **changes})
    memory.tick(RUNS, {"w": record})
    account = memory.ledger.accounts["G"]
    assert (bool(wait(account, "v")), account.held) == (waits, 300)
