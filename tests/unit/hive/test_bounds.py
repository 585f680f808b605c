"""What callers, workers and engines send has bounds, and one that misbehaves is no trouble for the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from starlette.requests import Request

from rbee_runtime.config import ContainerSettings
from rbee_runtime.errors import LauncherError, RequestError
from rbee_runtime.hive import log_views
from rbee_runtime.hive.facts import number
from rbee_runtime.hive.launchers import tail
from rbee_runtime.hive.launchers.containers import Owner, Seen
from rbee_runtime.hive.launchers.engine import ContainerLauncher, Engine, Surroundings

OWNER = Owner("f", "h", "now")


@pytest.mark.parametrize("text", ["0", "2001", "00000000012", "00000000011999999999", "-1", "1.0", ""])
def test_a_number_out_of_bounds_is_refused(text: str) -> None:
    """However it is written, a number in a query is within its bounds."""
    request = Request({"type": "http", "query_string": f"lines={text}".encode(), "headers": []})
    with pytest.raises(RequestError):
        number(request, "lines", default=1, most=2000)


@pytest.mark.parametrize("line", ["plain", "10%\rid: forged", "ends\r"])
def test_a_line_of_a_log_stays_one_event(line: str) -> None:
    """No carriage return of a worker's output starts a field of its own."""
    sent = log_views._as_event(line).decode()
    fields = [field for field in sent.replace("\r", "\n").split("\n") if field]
    assert (sent[-2:], [field for field in fields if not field.startswith("data: ")]) == ("\n\n", [])


def test_a_line_without_an_end_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that never ends its line does not fill the memory of who follows its log."""
    monkeypatch.setattr(tail, "BLOCK_BYTES", 10)
    log = tmp_path / "w.log"
    log.write_bytes(b"")
    follower = tail.Tail(log)
    follower.last(1)
    log.write_bytes(b"x" * 35 + b"\n")
    assert [len(line) for _ in range(5) for line in follower.take()] == [20, 15]


def test_only_the_end_of_a_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that writes faster than its log is cut does not fill the memory of who follows it, before or after."""
    monkeypatch.setattr(tail, "LAST_BYTES", 16)
    real, sizes = tail._end, []

    def end(file: BinaryIO) -> tuple[int, bytes]:
        found = real(file)
        sizes.append(len(found[1]))
        return found

    monkeypatch.setattr(tail, "_end", end)
    log = tmp_path / "w.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(10, 40)) + b"half")
    follower = tail.Tail(log)
    assert follower.last(100) == ["line 39"]
    log.write_bytes(b"".join(b"other %d\n" % number for number in range(10, 90)))
    assert (follower.take(), sizes) == (["other 89"], [16, 16])


class _Stubborn:
    """Has a container of an earlier boot that it does not remove, and one of this boot."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def find(self, _: Owner) -> list[Seen]:
        stale = {**OWNER.labels("old", "s"), "rbee.boot": "before"}
        return [Seen("1", stale, "exited"), Seen("2", OWNER.labels("w", "s"), "running")]

    def remove(self, _: str) -> None:
        raise self._error

    def inspect(self, _: str) -> Mapping[str, Any]:
        return {"State": {"Status": "running", "Pid": 0}, "Config": {"Labels": OWNER.labels("w", "s")}}


def _launcher(error: Exception, folder: Path) -> ContainerLauncher:
    around = Surroundings(OWNER, ContainerSettings(), folder, (), ())
    return ContainerLauncher(lambda: cast("Engine", _Stubborn(error)), around)


async def test_a_dead_container_that_cannot_be_removed_hides_no_worker(tmp_path: Path) -> None:
    """Workers are listed although tidying up behind an earlier boot is refused."""
    assert set(await _launcher(LauncherError("in use"), tmp_path).list()) == {"w"}


async def test_a_surprise_of_a_client_library_is_a_launchers_error(tmp_path: Path) -> None:
    """Whatever an engine's client raises reaches the supervisor as the one kind of error that it can live with."""
    with pytest.raises(LauncherError, match="cannot list its workers"):
        await _launcher(RuntimeError("surprise"), tmp_path).list()
