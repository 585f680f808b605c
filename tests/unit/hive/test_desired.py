"""The desired document on disk and who may replace it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime.errors import RequestError, StaleDesiredError
from rbee_runtime.hive import desired
from rbee_runtime.hive.desired import DesiredFile
from rbee_runtime.protocol import Desired, ModelSpec, WorkerSpec, encode
from tests.unit.damage import UNREADABLE

WORKER = WorkerSpec(id="m-0a1b2c", model="m", engine="fake")


def document(epoch: int, revision: int, *, fleet: str = "f", hive: str = "h") -> Desired:
    return Desired(fleet=fleet, hive=hive, epoch=epoch, revision=revision, workers=(WORKER,))


@pytest.mark.parametrize(
    ("newer", "changed"),
    [((1, 3), True), ((2, 1), True), ((1, 2), False)],
)
def test_newer_documents_replace_older_ones(tmp_path: Path, newer: tuple[int, int], changed: bool) -> None:
    """A higher revision or epoch is kept, the same one acknowledged without a change."""
    file = DesiredFile(tmp_path, fleet="f", hive="h")
    file.accept(document(1, 2))
    assert file.accept(document(*newer)) is changed
    assert (file.ack().epoch, file.ack().revision) == newer


@pytest.mark.parametrize(
    "stale",
    [document(2, 2), document(1, 9), document(9, 9, fleet="other"), document(9, 9, hive="neighbour")],
    ids=["revision", "epoch", "fleet", "hive"],
)
def test_older_and_foreign_documents_change_nothing(tmp_path: Path, stale: Desired) -> None:
    """A lower revision, a lower epoch, another fleet or another host is refused, on disk and in memory."""
    file = DesiredFile(tmp_path, fleet="f", hive="h")
    file.accept(document(2, 3))
    with pytest.raises(StaleDesiredError):
        file.accept(stale)
    for held in (file, DesiredFile(tmp_path, fleet="f", hive="h")):
        assert held.document == document(2, 3)


@pytest.mark.parametrize("damage", [*UNREADABLE, b'{"fleet": 1}'])
def test_a_damaged_file_loses_the_document_but_not_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    """After damage nothing is followed, an old queen is still refused, and the right one's repeat is taken."""
    DesiredFile(tmp_path, fleet="f", hive="h").accept(document(3, 4))
    (tmp_path / "desired.json").write_bytes(damage)
    file = DesiredFile(tmp_path, fleet="f", hive="h")
    assert file.document is None
    assert "cannot be used" in capsys.readouterr().err
    with pytest.raises(StaleDesiredError):
        file.accept(document(3, 3))
    assert file.accept(document(3, 4))


def test_a_host_that_moves_to_another_fleet_starts_anew(tmp_path: Path) -> None:
    """The kept document of the old fleet is not followed, and its epoch does not bind the new queen."""
    DesiredFile(tmp_path, fleet="old", hive="h").accept(document(9, 9, fleet="old"))
    file = DesiredFile(tmp_path, fleet="f", hive="h")
    assert file.document is None
    assert file.accept(document(1, 1))


def raw(**changes: Any) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(document(1, 1)) | changes)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        *((body, "cannot be used") for body in UNREADABLE),
        (raw(epoch="x"), "cannot be used"),
        (raw(workers=[{"id": "../x", "model": "m", "engine": "fake"}]), "no worker id"),
        (raw(workers=[{"id": "a@b", "model": "m", "engine": "fake"}]), "no worker id"),
        (raw(workers=[{"id": "a" * 64, "model": "m", "engine": "fake"}]), "no worker id"),
        (raw(workers=[msgspec.to_builtins(WORKER)] * 2), "twice"),
        (raw(workers=[{"id": "a", "model": "../m", "engine": "fake"}]), "not allowed"),
        (raw(models=[{"name": "a//b", "source": "fake:"}]), "not allowed"),
    ],
)
def test_a_document_that_cannot_be_acted_on_is_refused(body: bytes, said: str) -> None:
    """Names that would become odd units or paths, and what is no document at all, get one sentence."""
    with pytest.raises(RequestError, match=said) as caught:
        desired.parse(body)
    assert caught.value.status == 400


def test_fields_of_a_newer_queen_are_ignored() -> None:
    """A document with fields that this version does not know is followed."""
    found = desired.parse(raw(mood="good", models=[msgspec.to_builtins(ModelSpec(name="m", source="fake:"))]))
    assert found.workers == (WORKER,)


def test_what_is_kept_is_what_was_sent(tmp_path: Path) -> None:
    """The file on disk decodes to the document, readable by its owner only."""
    DesiredFile(tmp_path, fleet="f", hive="h").accept(document(1, 1))
    path = tmp_path / "desired.json"
    assert msgspec.json.decode(path.read_bytes(), type=Desired) == document(1, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_the_version_before_is_read(tmp_path: Path) -> None:
    """A document that was kept without a schema is followed as it is."""
    (tmp_path / "desired.json").write_bytes(encode(document(3, 4)))
    assert DesiredFile(tmp_path, fleet="f", hive="h").document == document(3, 4)


def test_a_file_of_an_unknown_newer_schema_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told and left alone, and the mark against older queens still holds."""
    DesiredFile(tmp_path, fleet="f", hive="h").accept(document(3, 4))
    path = tmp_path / "desired.json"
    path.write_text(path.read_text().replace('"schema":1', '"schema":2'))
    held = DesiredFile(tmp_path, fleet="f", hive="h")
    assert (held.document, "schema 2" in capsys.readouterr().err) == (None, True)
    with pytest.raises(StaleDesiredError):
        held.accept(document(3, 3))
