"""Files of the state folder that cannot be used: told in the API and the status line until they are written again."""

import errno
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime import durable
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import StateError
from rbee_runtime.hive.desired import DesiredFile
from rbee_runtime.hive.estimates import Estimates
from rbee_runtime.hive.records import Records, WorkerRecord
from rbee_runtime.hive.state_files import read
from rbee_runtime.protocol import Desired, Message
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until

FILES = {"desired.json", "highest.json", "records/w.json", "estimates.json"}
DAMAGE = {
    "damaged": (b"{", "cannot be used"),
    "an odd byte": (b'{"id": "\xff", "fleet": "\xff", "peaks": {"\xff": 1}}', "cannot be used"),
    "newer": (b'{"schema": 9, "fleet": 1, "id": 1, "peaks": 1}', "is of schema 9, this version reads 1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", sorted(FILES))
async def test_a_file_that_cannot_be_used_is_told(start: Start, settings: HiveConfig, name: str, damage: str) -> None:
    """Status line, `info` and, if nothing is followed, the answer to `desired` name the file and what is wrong."""
    content, said = DAMAGE[damage]
    path = settings.state_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    hive, queen = await start()
    told = [
        (await queen.get("/api/v1/info")).json()["detail"],
        hive.summary,
        (await queen.get("/api/v1/desired")).json()["error"]["message"],
    ]
    assert [f"{path} {said}" in each for each in told] == [True, True, True]


async def test_a_damaged_mark_is_written_again_with_the_document_that_it_stands_for(
    start: Start, settings: HiveConfig
) -> None:
    """The queen repeats the document that is followed already, and nothing is left to tell."""
    first, queen = await start()
    await queen.put(desired(3))
    await first.stop(stop_workers=False)
    (settings.state_dir / "highest.json").write_text("{")
    _, queen = await start()
    before = (await queen.get("/api/v1/info")).json()["detail"]
    assert (await queen.put(desired(3))).status_code == 200
    assert "highest.json cannot be used" in before
    assert (await queen.get("/api/v1/info")).json()["detail"] == ""
    assert '"revision":3' in (settings.state_dir / "highest.json").read_text()


async def test_it_is_over_once_the_queen_has_sent_a_document(start: Start, settings: HiveConfig) -> None:
    """A document and a record that are written anew leave nothing to tell."""
    (settings.state_dir / "records").mkdir(parents=True)
    for name in ("desired.json", "records/w.json"):
        (settings.state_dir / name).write_text("{")
    _, queen = await start()
    await queen.put(desired(1, fake("w")))
    await until(lambda: queen.in_state("w", "ready"))
    assert (await queen.get("/api/v1/info")).json()["detail"] == ""


def test_what_is_written_again_is_not_told_any_more(tmp_path: Path) -> None:
    """A dropped record and new estimates end the sentence of the file that they replace."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "w.json").write_text("{")
    (tmp_path / "estimates.json").write_text("{")
    records, estimates = Records(tmp_path), Estimates(tmp_path)
    before = (len(records.unread), bool(estimates.trouble))
    records.drop("w")
    estimates.observe("a", 5)
    estimates.save(now=1.0)
    assert before == (1, True)
    assert (records.unread, estimates.trouble) == ((), "")


def refusing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the disk refuse this one file."""
    write = durable.write

    def refuse(path: Path, data: bytes, **options: Any) -> None:
        if path.name == name:
            raise StateError(f"cannot write {path}: No space left on device")
        write(path, data, **options)

    monkeypatch.setattr(durable, "write", refuse)


def test_a_record_that_is_written_late_is_not_told_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentence ends with the try that the disk takes, not only where that is the first one."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "w.json").write_text("{")
    records = Records(tmp_path)
    with monkeypatch.context() as patch:
        refusing(patch, "w.json")
        records.put(WorkerRecord(id="w"))
    before = len(records.unread)
    records.retry()
    assert (before, records.unread, records.trouble) == (1, (), "")


def test_a_record_that_a_person_removes_is_not_told_any_more(tmp_path: Path) -> None:
    """Which is what the sentence asks for."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "w.json").write_text("{")
    records = Records(tmp_path)
    before = len(records.unread)
    (tmp_path / "records" / "w.json").unlink()
    records.retry()
    assert (before, records.unread) == (1, ())


def test_a_record_on_a_disk_that_fails_is_told_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it cannot be looked at does not mean that it is gone, nor does it end the hive."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "w.json").write_text("{")
    records = Records(tmp_path)

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "stat", fail)
    monkeypatch.setattr(Path, "lstat", fail)
    records.retry()
    assert len(records.unread) == 1


def test_a_mark_that_the_disk_refuses_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is followed, the damaged mark stays named, and the queen's repeat writes it."""
    (tmp_path / "desired.json").write_text("{")
    (tmp_path / "highest.json").write_text("{")
    file = DesiredFile(tmp_path, fleet="f", hive="h")
    document = Desired(fleet="f", epoch=1, revision=1)
    with monkeypatch.context() as patch:
        refusing(patch, "highest.json")
        file.accept(document)
    between = file.trouble
    file.accept(document)
    assert (file.document, between) == (document, f"cannot write {tmp_path / 'highest.json'}: No space left on device")
    assert file.trouble == ""
    assert '"revision":1' in (tmp_path / "highest.json").read_text()


class Newer(Message, frozen=True, kw_only=True):
    schema: int = 2
    id: int = 7


def test_a_newer_file_is_called_newer_whatever_else_it_says(tmp_path: Path) -> None:
    """Fields that changed their types in a newer schema do not make a file damaged."""
    (tmp_path / "w.json").write_bytes(msgspec.json.encode(Newer()))
    found, said = read(tmp_path / "w.json", WorkerRecord, newest=1, until_then="it begins anew")
    assert found is None
    assert said == f"{tmp_path / 'w.json'} is of schema 2, this version reads 1: it begins anew"
