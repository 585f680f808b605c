"""What an operator, the queen and the event feed hear when a worker stays in its state for another reason."""

import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_runtime import durable
from rbee_runtime.events import EventLog
from rbee_runtime.hive.feed import Feed, Snapshot
from rbee_runtime.hive.metrics import Meters
from rbee_runtime.hive.wording import wording
from rbee_runtime.protocol import WorkerReport
from rbee_runtime.states import Observed
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.ports import free_ports
from tests.unit.hive.waiting import until

REFUSED = "rbee-worker: an option of engine fake is wrong: tokens"


@dataclass
class Talking(ScriptedLauncher):
    """Its workers write one sentence."""

    async def logs(self, worker: str, lines: int) -> str:
        return REFUSED


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Rig]:
    """Return a hive whose workers run."""
    clock = Clock()
    made = rig(settings(tmp_path, free_ports(4)), Talking(clock), clock)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("state", "before", "after", "same"),
    [
        (Observed.BACKOFF, "next try in 1 s", "next try in 12 s", True),
        (Observed.BACKOFF, "needs 1.5 GiB", "needs 12 GiB", True),
        (
            Observed.BACKOFF,
            "waits its turn: a-3ba39f, b-d4e74c loads on cpu",
            "waits its turn: c-85a921 loads on cpu",
            True,
        ),
        (Observed.BACKOFF, "waits its turn: a-3ba39f loads on cpu", "waits its turn: a-3ba39f loads on gpu-x", False),
        (Observed.BACKOFF, "killed: signal 9 ended it; next try in 1 s", "waits until it can be put on record", False),
        (Observed.STARTING, "", "http://127.0.0.1:9000 does not answer", True),
    ],
)
def test_figures_and_neighbours_alone_are_no_news(state: Observed, before: str, after: str, same: bool) -> None:
    """Seconds, bytes and who else loads change nothing, nor what a start meets on its way; another sentence does."""
    assert (wording(state, before) == wording(state, after)) is same


async def test_another_sentence_is_told_at_once_and_a_countdown_is_not(
    hive: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queen hears within one look why a worker waits now, and nothing while only its seconds pass."""
    await hive.follow(document(1, worker("a")))
    await hive.simulate(5)
    told: list[str] = []
    hive.supervisor.watch(lambda: told.append(getattr(hive.report("a"), "detail", "")))
    await hive.launcher.kill("a")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "_replace", refuse)
    await hive.simulate(30, step=0.1)
    assert [said.partition(":")[0] for said in told] == ["killed", "waits until its start can be put on record"]


async def test_a_sentence_that_comes_after_the_state_gets_into_journal_and_watchers(
    hive: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker's last words are told although the worker has been `exited` for a while."""
    hive.launcher.ends = 64  # type: ignore[attr-defined]
    await hive.follow(document(1, worker("a")))
    await hive.simulate(3)
    told: list[str] = []
    hive.supervisor.watch(lambda: told.append(getattr(hive.report("a"), "detail", "")))
    await until(lambda: not hive.supervisor._last_words._tasks)
    await hive.simulate(3)
    assert ["tokens" in said for said in told] == [True]
    lines = [line for line in capsys.readouterr().err.splitlines() if "worker_state worker=a" in line]
    assert [("state=exited" in line, "tokens" in line) for line in lines[-2:]] == [(True, False), (True, True)]


def test_the_feed_has_an_event_for_another_sentence() -> None:
    """One event for the state, one for its new reason, none for seconds."""
    log, details = EventLog("x"), ["killed; next try in 2 s", "killed; next try in 1 s", "waits for the disk"]
    reports = iter(
        Snapshot({"a": WorkerReport(id="a", model="m", spec="s", state=Observed.BACKOFF, detail=said)})
        for said in details
    )
    feed = Feed(log, Meters(name="h", events=log.counts), look=lambda: next(reports))
    for _ in details:
        feed.changed()
    assert [event.data["detail"] for event in log.held()] == [details[0], details[2]]
