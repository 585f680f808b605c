"""A state disk that takes nothing: workers go on, and what waits is done once it can be kept."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbee_runtime import durable
from rbee_runtime.errors import StateError
from rbee_runtime.states import Observed
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a hive on which worker `a` runs."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(4)), ScriptedLauncher(clock), clock)
    await made.follow(document(1, worker("a")))
    await made.simulate(5)
    yield made
    await made.close()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let every write fail as on a full disk, until undone."""

    def refuse(path: Path, data: bytes, mode: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "_replace", refuse)
    return monkeypatch


async def test_workers_go_on_and_starts_wait_for_the_disk(running: Rig, full: pytest.MonkeyPatch) -> None:
    """A crash on a full disk is counted, told with the disk's sentence, and followed by a start once there is room."""
    await running.launcher.kill("a")
    await running.simulate(20)
    waiting = running.report("a")
    assert waiting is not None
    assert (waiting.state, "No space left on device" in waiting.detail) == (Observed.BACKOFF, True)
    assert "No space left on device" in "; ".join(running.supervisor.troubles)
    assert len(running.launcher.starts) == 1  # type: ignore[attr-defined]
    full.undo()
    await running.simulate(20)
    assert running.supervisor.troubles == ()
    assert len(running.launcher.starts) == 2  # type: ignore[attr-defined]


async def test_a_document_that_cannot_be_kept_is_refused_and_nothing_changes(
    running: Rig, full: pytest.MonkeyPatch
) -> None:
    """The queen hears the sentence and repeats it later; what runs is still what was wanted before."""
    with pytest.raises(StateError, match="No space left on device"):
        await running.follow(document(2))
    await running.simulate(20)
    assert running.supervisor.ack.revision == 1
    assert running.report("a") is not None


async def test_a_models_disk_that_fails_does_not_stop_the_hive(running: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that cannot be looked at are trouble that is told; running workers are watched as before."""

    async def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(running.supervisor.fetching, "look", fail)
    await running.simulate(30)
    assert "Input/output error" in "; ".join(running.supervisor.troubles)
    await running.launcher.kill("a")
    await running.simulate(10)
    assert len(running.launcher.starts) == 2  # type: ignore[attr-defined]


async def test_a_launch_file_that_could_not_be_written_keeps_nobody_waiting_for_ever(
    running: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only that one file was refused, the start follows as soon as the disk takes it."""
    real = durable._replace

    def refuse(path: Path, data: bytes, mode: int) -> None:
        if path.parent.name == "workers":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data, mode)

    monkeypatch.setattr(durable, "_replace", refuse)
    await running.launcher.kill("a")
    await running.simulate(20)
    assert "No space left on device" in "; ".join(running.supervisor.troubles)
    monkeypatch.undo()
    await running.simulate(20)
    assert (running.supervisor.troubles, len(running.launcher.starts)) == ((), 2)  # type: ignore[attr-defined]


async def test_a_launch_file_that_could_not_be_removed_goes_later(
    running: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what a caller needs to be let in, so it does not stay for good when a worker is forgotten."""
    left = running.config.state_dir / "workers" / "a.json"
    real = durable.remove

    def refuse(path: Path) -> None:
        if path == left:
            raise StateError("it is busy")
        real(path)

    monkeypatch.setattr(durable, "remove", refuse)
    await running.follow(document(2))
    await running.simulate(5)
    assert (left.exists(), running.supervisor.troubles) == (True, ("it is busy",))
    monkeypatch.undo()
    await running.simulate(5)
    assert (left.exists(), running.supervisor.troubles) == (False, ())
