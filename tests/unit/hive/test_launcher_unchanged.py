"""When the last answer of a launcher still holds, and that everything ends together."""

import os
import subprocess
from collections.abc import Mapping

import pytest

from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.launchers.stopping import stop_all
from rbee_runtime.hive.launchers.unchanged import TRUSTED_SECONDS, LastAnswer

RUNNING = UnitStatus("w-1", Phase.RUNNING, pid=os.getpid())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_holds_while_its_processes_live() -> None:
    """Within its time the same answer comes again; after it, or after an action, none does."""
    clock = Clock()
    last = LastAnswer(clock)
    given = last.keep({"w-1": RUNNING, "w-2": UnitStatus("w-2", Phase.ENDED)})
    assert last.get() is given
    clock.now += TRUSTED_SECONDS
    assert last.get() is None
    last.keep(given)
    last.drop()
    assert last.get() is None


def test_an_answer_is_over_when_a_process_ends() -> None:
    """The end of one worker is seen at once."""
    process = subprocess.Popen(["sleep", "60"])
    last = LastAnswer(Clock())
    last.keep({"w-1": RUNNING, "w-2": UnitStatus("w-2", Phase.RUNNING, pid=process.pid)})
    held = last.get()
    process.kill()
    process.wait()
    assert held is not None
    assert last.get() is None


@pytest.mark.parametrize(
    "status",
    [
        UnitStatus("w-1", Phase.STARTING, pid=os.getpid()),
        UnitStatus("w-1", Phase.STOPPING, pid=os.getpid()),
        UnitStatus("w-1", Phase.RUNNING),
    ],
)
def test_a_worker_on_its_way_is_asked_about_each_time(status: UnitStatus) -> None:
    """What is about to change, or has no process to look at, is never answered from memory."""
    last = LastAnswer(Clock())
    last.keep({"w-1": status})
    assert last.get() is None


class Stubborn:
    """A launcher of two workers, one of which does not stop."""

    poll_seconds = 1.0

    def __init__(self) -> None:
        self.statuses = {name: UnitStatus(name, Phase.RUNNING, pid=1) for name in ("w-1", "w-2")}

    async def list(self) -> Mapping[str, UnitStatus]:
        return self.statuses

    async def stop(self, worker: str) -> None:
        if worker == "w-1":
            self.statuses[worker] = UnitStatus(worker, Phase.ENDED)


async def test_what_does_not_stop_is_named() -> None:
    """Everything is asked to stop, and whoever is left after the time is told."""
    assert await stop_all(Stubborn(), within=0.0) == ("w-2",)  # type: ignore[arg-type]
