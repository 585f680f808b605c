"""Records of workers over restarts of the hive."""

from pathlib import Path

import msgspec
import pytest

from rbee_runtime.hive.records import Records, WorkerRecord, recovered
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec
from tests.unit.damage import UNREADABLE

RECORD = WorkerRecord(id="w", boot="b", spec="s", port=9001, launched=3.5, failures=(1.0, 2.0))


def test_records_outlive_the_hive(tmp_path: Path) -> None:
    """What one hive put on record the next one reads, and what it dropped is gone."""
    first = Records(tmp_path)
    first.put(RECORD)
    first.put(WorkerRecord(id="x"))
    first.drop("x")
    again = Records(tmp_path)
    assert (list(again), again["w"], again["x"]) == (["w"], RECORD, WorkerRecord(id="x"))


@pytest.mark.parametrize("damage", [*UNREADABLE, b'{"id": "other"}', b'{"id": "w", "port": "x"}'])
def test_a_damaged_record_costs_only_itself(tmp_path: Path, damage: bytes) -> None:
    """Other records are still read."""
    records = Records(tmp_path)
    records.put(RECORD)
    records.put(WorkerRecord(id="x", port=9002))
    (tmp_path / "records" / "w.json").write_bytes(damage)
    assert list(Records(tmp_path)) == ["x"]


def test_an_unchanged_record_is_not_written(tmp_path: Path) -> None:
    """A second look that changes nothing leaves the disk alone."""
    records = Records(tmp_path)
    records.put(RECORD)
    path = tmp_path / "records" / "w.json"
    before = path.stat().st_ino
    records.put(WorkerRecord(**{name: getattr(RECORD, name) for name in RECORD.__struct_fields__}))
    assert path.stat().st_ino == before


def test_a_lost_record_comes_back_from_the_launch_file() -> None:
    """Identity and port of a running worker are known without its record."""
    spec = WorkerSpec(id="w", model="m", engine="fake", slots=3)
    found = recovered(WorkerLaunch(worker=spec, host="127.0.0.1", port=9005), boot="b", basis="c/k")
    assert (found.identity, found.port, found.slots) == (f"{spec.digest()}/c/k", 9005, 3)


def test_a_record_of_a_newer_schema_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a newer version wrote may mean something else; the worker is then known from its launch file."""
    Records(tmp_path).put(msgspec.structs.replace(RECORD, schema=2))
    assert (list(Records(tmp_path)), "schema 2" in capsys.readouterr().err) == ([], True)


def test_a_record_of_the_version_before_is_read(tmp_path: Path) -> None:
    """Fields that are missing have their defaults."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "w.json").write_text('{"id": "w", "port": 9001, "streak": 2}')
    assert Records(tmp_path)["w"] == WorkerRecord(id="w", port=9001, streak=2)


def test_what_the_disk_refuses_is_kept_and_written_later(tmp_path: Path) -> None:
    """A record on a disk that takes nothing is in force at once, told as trouble, and on disk when that is possible."""
    blocker = tmp_path / "records"
    records = Records(tmp_path)
    blocker.write_text("no folder can be here")
    records.put(RECORD)
    assert (records["w"], "cannot write" in records.trouble) == (RECORD, True)
    blocker.unlink()
    records.retry()
    assert (records.trouble, Records(tmp_path)["w"]) == ("", RECORD)
